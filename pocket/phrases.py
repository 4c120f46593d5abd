"""The words captions are made of: many ways to say the same true thing.

Braces are filled from the clip. Colours, materials, numbers, notes and quotes come from the clip alone: no
phrase brings one of its own, so that a caption can be checked by reading it.
"""

COUNTS = {
    1: "once",
    2: "twice",
    3: "three times",
    4: "four times",
    5: "five times",
    6: "six times",
    7: "seven times",
}
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}

HAIR = {
    "short": "short {hair} hair",
    "swept": "{hair} hair swept to the side",
    "curly": "curly {hair} hair",
    "bald": "a bald head and {hair} hair at the sides",
    "long": "long {hair} hair",
    "bob": "{hair} hair in a bob",
    "bun": "{hair} hair in a bun",
    "wavy": "wavy {hair} hair",
    "tuft": "{hair} hair and a cowlick",
    "pigtails": "{hair} pigtails",
    "bowl": "{hair} hair in a bowl cut",
    "cap": "{hair} hair under a baseball cap",
}
PERSON = (
    "cartoon {person}",
    "{person} in flat cartoon style",
    "friendly cartoon {person}",
    "smiling cartoon {person}",
)
FACE_FIRST_FRAME = (
    "A {who} with {hair} {wears} faces the camera in front of a {wall} wall, lips closed.",
    "In a head-and-shoulders shot, a {who} with {hair} {wears} looks ahead before a {wall} wall.",
    "A {who} waits in front of a {wall} wall: {hair}, {wears}, a closed mouth and bright eyes.",
    "A close, eye-level view shows a {who} with {hair}, {wears}, against a {wall} wall in soft light.",
)
WEARS = ("wearing a {clothes} {garment}", "in a {clothes} {garment}", "dressed in a {clothes} {garment}")
FACE_PROGRESSION = (
    "The {person} blinks, raises the brows and speaks, the lips shaping every sound.",
    "The mouth opens and closes with each syllable while the head nods a little.",
    "The {person} talks to the viewer, nodding gently, and the lips close again at the end.",
    "After a moment the {person} begins to speak; the lips open and round with the vowels.",
)
DIALOGUE = (
    'The {person} says, "{quote}"',
    'The {person} in the {clothes} {garment} says: "{quote}"',
    'Looking at the camera, the {person} says "{quote}"',
    'The {person} with {hair} says, "{quote}"',
)
FACE_AUDIO = (
    "The audio shows a {pitch}{person}'s voice speaking English at a {pace} pace in a quiet room.",
    "The audio shows clear speech by a {person}, {pitch_clause}{pace} and close, with no other sound.",
    "The audio shows one {pitch}voice, that of a {person}, at a {pace} pace and without music.",
)
FACE_SENTENCES = (
    'A {who} says "{quote}"',
    'A {person} with {hair} says: "{quote}"',
    'A {person} in a {clothes} {garment} looks at the camera and says "{quote}"',
    'The {person} says, "{quote}" in a {pace} voice.',
)
FACE_LABELS = ('{person} says "{quote}"', 'a {person} saying "{quote}"', '{person}: "{quote}"', '"{quote}"')

BALL = ("{colour} {material} ball", "{colour} ball of {stuff}", "{colour} ball made of {stuff}")
STUFF = {"rubber": "rubber", "wood": "wood", "metal": "metal", "glass": "glass"}
ADJECTIVE = {"rubber": "rubber", "wood": "wooden", "metal": "metal", "glass": "glass"}
LOOK = {
    "rubber": ("matte, with a pale stripe", "soft and striped"),
    "wood": ("with visible grain", "painted over its grain"),
    "metal": ("polished like a mirror", "with a bright reflection"),
    "glass": ("clear, so that the wall shows through", "see-through, with a sparkle"),
}
BALL_FIRST_FRAME = (
    "A {ball}, {look}, hangs {height} above {floor} floor in front of a {wall} wall.",
    "A wide, eye-level shot shows a {ball} in the air {height} above {floor} floor, a {wall} wall behind it.",
    "In a room with a {wall} wall, a {ball} is {height} above {floor} floor, {look}.",
    "A {ball} floats {height} over {floor} floor under soft light; the wall is {wall}.",
)
HEIGHT = {"high": "high", "middle": "some way", "low": "a little way"}
FLOOR = {
    "oak": "an oak",
    "dark wood": "a dark wooden",
    "slate": "a slate",
    "white tile": "a white tiled",
    "terracotta": "a terracotta",
}
BALL_PROGRESSION = (
    "The ball {start}, strikes the floor and bounces {times}, each bounce lower than the last, {drift}.",
    "It {start} and hits the floor {times}, losing height every time, {drift}.",
    "The ball {start}; it hits the floor {times} before the end, {drift}.",
    "The ball {start} and meets the floor {times}, {drift}, its shadow closing in below it.",
)
START = {
    "dropped": ("drops", "falls", "falls from rest"),
    "tossed": ("rises a little, then falls", "is tossed up, falls back", "flies up first, then drops"),
}
DRIFT = {
    "straight down": ("moving straight down and up", "without moving sideways", "keeping to one spot"),
    "left": ("drifting to the left", "moving left", "travelling to the left"),
    "right": ("drifting to the right", "moving right", "travelling to the right"),
}
IMPACT = {
    "rubber": ("soft low thud", "dull rubbery thump", "deep muffled bump"),
    "wood": ("short dry knock", "hollow wooden knock", "crisp wooden tock"),
    "metal": ("bright metallic ring", "long ringing clang", "clear metal chime"),
    "glass": ("high glassy clink", "delicate clink", "sharp tinkling tap"),
}
BALL_AUDIO = (
    "The audio shows {number} {impacts}, the first at about {first} seconds and each quieter than the last.",
    "The audio shows {number} {impacts}, one at each touch of the floor, in an otherwise quiet room.",
    "The audio shows {number} {impacts} growing softer, in time with the hits, and no other sound.",
    "The audio shows {number} {impacts}, heard just when the ball lands, in a still room.",
    "The audio shows {number} {impacts}; each landing is heard, ever more softly, and nothing else.",
)
BALL_SENTENCES = (
    "A {ball} falls and hits the floor {times}.",
    "A {ball} drops and bounces {times} with {impacts}.",
    "A {ball} bounces {times}, {drift}.",
    "A {ball} falls on {floor} floor.",
)
BALL_LABELS = ("{ball} falls", "{ball} bounces {times}", "a bouncing {ball}", "{ball}")

PIANO = ("{body} toy piano", "small {body} toy piano", "cheerful {body} toy piano")
PIANO_FIRST_FRAME = (
    "A {piano} with a smiling face stands on a table before a {wall} wall, its labelled keys up and unlit.",
    "An eye-level shot shows a {piano} on a table, all its lettered keys raised, before a {wall} wall.",
    "On a table by a {wall} wall sits a {piano}; letters name its keys, and none is pressed yet.",
)
PIANO_PROGRESSION = (
    "The keys {notes} sink one after another and glow {light}, and a little note floats up from each.",
    "By itself the piano plays {notes}: each key goes down, lights up {light} and rises again.",
    "Keys {notes} are pressed in this order, each lit {light} while it sounds.",
)
PIANO_AUDIO = (
    "The audio shows a toy piano playing the {number} notes {notes} at {pace} pace, bright and tinkling.",
    "The audio shows {number} clear toy piano tones, {notes}, at {pace} pace, each fading as its key rises.",
    "The audio shows a tinkling toy piano: {notes}, {number} notes at {pace} pace and no other sound.",
)
PIANO_SENTENCES = (
    "A {piano} plays {notes}.",
    "A {piano} plays the notes {notes} and its keys glow {light}.",
    "The keys {notes} of a {piano} light up as they sound.",
    "A {piano} plays {notes} at {pace} pace.",
)
PIANO_LABELS = (
    "toy piano plays {notes}",
    "{body} toy piano: {notes}",
    "{notes} on a toy piano",
    "piano {notes}",
)
TUNE_HINT = (" It is the start of {tune}.", " The melody is {tune}.")
PACE = {"slow": "a slow", "easy": "an easy", "quick": "a quick"}
RAINBOW = ("in rainbow colours", "in the colours of the rainbow")
