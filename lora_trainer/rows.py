"""Text of captions and manifests, and the rows of a manifest: JSON, JSON lines, or a table of any separator.

What cannot be read as it was meant is refused with its place; nothing is glued, cut or guessed.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mova.errors import UserError

# The same columns as other trainers name them.
VIDEO_KEYS = ("video", "video_path", "file_name", "file_path", "media_path", "path")
AUDIO_KEYS = ("audio", "audio_path", "input_audio")
CAPTION_KEYS = ("caption", "prompt", "text")
COLUMNS = {*VIDEO_KEYS, *AUDIO_KEYS, *CAPTION_KEYS, "start", "end", "sound"}
TABLES = (".csv", ".tsv")
SEPARATORS = ",;\t|"
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SHOWN = 5  # faulty rows that are named


def read_text(path: Path) -> str:
    """The text of a file, in UTF-8, or in UTF-16 or 32 with its mark. Raises UserError if it is neither."""
    try:
        content = path.read_bytes()
        encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8-sig")
        text = content.decode(encoding)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its rights") from error
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(
            f"{path} is not UTF-8 text: byte {error.start} is 0x{byte:02x}, perhaps of Windows-1252; "
            "save it as UTF-8"
        ) from error
    if "\0" in text:
        raise UserError(
            f"{path} holds NUL characters, as UTF-16 without its mark does; save it as UTF-8 text"
        )
    return text


def read_rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a manifest, as dictionaries.

    Raises:
        UserError: it is not such a file, or a row cannot be read; the message says which and why.
    """
    suffix = path.suffix.lower()
    if suffix not in (*TABLES, ".jsonl", ".json"):
        raise UserError(f"{path} is not a manifest; give a folder, or a .jsonl, .csv or .json file")
    text = read_text(path)
    try:
        if suffix in TABLES:
            return table_rows(text, path)
        if suffix == ".jsonl":
            # Not splitlines: JSON allows the line separators of Unicode inside its strings.
            rows: Any = [
                json_line(line, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()
            ]
        else:
            rows = json.loads(text)
    except (ValueError, RecursionError, csv.Error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read as {suffix} ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} must be a list of rows with a clip and a caption each")
    return rows


def json_line(line: str, number: int) -> Any:  # noqa: ANN401 - what the line says
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error


def table_rows(text: str, path: Path) -> list[Mapping[str, Any]]:
    """Rows of a table whose first row names the columns; the separator is the one that tells them apart."""
    stated = re.match(r"sep=(.)\r?\n", text)  # a line that Excel writes
    text = text[stated.end() :] if stated else text
    first = text.lstrip("\r\n").partition("\n")[0]
    separator = (
        stated[1] if stated else max(SEPARATORS, key=lambda sign: len(COLUMNS & set(names_in(first, sign))))
    )
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
    )
    lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    names = [name.strip().lower() for name in lines[0][1]] if lines else []
    if not set(names) & set(VIDEO_KEYS):
        raise UserError(
            f"{path}: its first row must name the columns ({VIDEO_KEYS[0]}, {CAPTION_KEYS[0]}), separated by "
            f"commas, semicolons or tabs; it is {first[:80]!r}"
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path} has two columns {', '.join(twice)}; keep one")
    wrong = [f"line {line} has {len(row)}" for line, row in lines[1:] if len(row) != len(names)]
    if wrong:
        shown = ", ".join(wrong[:SHOWN]) + (f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else "")
        raise UserError(
            f"{path} has {len(names)} columns, but {shown} fields; put quotes around text that holds "
            f"{separator!r}"
        )
    return [dict(zip(names, row, strict=True)) for _, row in lines[1:]]


def names_in(line: str, separator: str) -> list[str]:
    return [name.strip(' "\r').lower() for name in line.split(separator)]
