"""Kinds of files that are read as clips and as sound, with the demuxer of each. No PyAV."""

# A suffix decides how a file is opened, so that a playlist cannot make the decoder read other files.
VIDEO_FORMATS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".3gp": "mov",
    ".mkv": "matroska",
    ".webm": "matroska",
    ".avi": "avi",
    ".wmv": "asf",
    ".ts": "mpegts",
    ".mts": "mpegts",
    ".m2ts": "mpegts",
    ".mpg": "mpeg",
    ".mpeg": "mpeg",
    ".vob": "mpeg",
    ".flv": "flv",
    ".ogv": "ogg",
}
AUDIO_FORMATS = {
    ".wav": "wav",
    ".flac": "flac",
    ".mp3": "mp3",
    ".m4a": "mp4",
    ".ogg": "ogg",
    ".opus": "ogg",
    ".aac": "aac",
}
