"""Ideas of the piano family: notes in the ways people write them, titles of tunes, or neither."""

from recipes.pocket.enhancer.draft import Draft, with_article
from recipes.pocket.enhancer.hand import expand, keep
from recipes.pocket.enhancer.vocabulary import THING_ADJECTIVES
from recipes.pocket.world.piano import TUNES

PIANO = (
    "{piano} (plays|playing|play)(:|) {notes}{tail}",
    "{piano} (plays|playing) {notes}",
    "{piano} (plays|playing|play)( the|) (notes|keys|melody|tune)(:|) {notes}{tail}",
    "{piano}(:|,| -|) {notes}{tail}",
    "(play|hit|press)(:|) {notes}{tail}",
    "(play|hit|press)( the|) (notes|keys|melody|tune)(:|) {notes}{tail}",
    "{notes}",
    "{notes} (on|by|played on|played by|from) {piano}{tail}",
    "(notes|melody|tune|keys|song|music)(:|) {notes}{tail}",
    "(notes|melody|tune|keys|song)(:|) {notes} (on|played on) {piano}",
    "(the |)(keys|notes) {notes} (light up|glow|are lit)( in|) {light}",
    "(the |)keys (light up|glow|are lit)( in|) {light}(:|) {notes}",
    "{piano} with {light} (lights|keys|light|glow)(,| plays| playing|:) {notes}",
    "{prefix}(-like|-ish| like|) (melody|tune|song)(,|:|) {short_notes}",
    "(make|let) {piano} play(:|) {notes}{tail}",
    "{piano}, {wall} (wall|background)(,| plays|:) {notes}",
    "play {notes} on {piano}{tail}",
    "{piano} (performs|sounds|gives us|sounding) {notes}{tail}",
    "(a |)(little |short |simple |)(melody|tune|song)(:|) {notes}(,|) (on|played on) {piano}",
    "(there is|here is|this is) {piano}. it plays {notes}{tail}",
    "i want {piano} to play {notes}{tail}",
    "{piano} (that|which) plays {notes}{tail}",
    "(a |)(melody|tune|song) (of|with|from)( the|)( notes|) {notes}{tail}",
    "(keys|lights) in {light}(:|,) {piano} (plays|playing) {notes}",
    "{light} (lights|light|glow) and {piano}(:|,) {notes}",
    "(the |)keys (are|turn) {light}(,| and) {piano} plays {notes}",
    "{light} (lit |glowing |)keys on {piano}(:|,) {notes}",
)
PIANO_HELD_OUT = (
    "{notes}, played by {piano}",
    "{piano}: (keys|notes) {notes}{tail}",
    "(press|play) {notes} (and glow|glowing) {light}",
    "on {piano}(,|) (play|we hear|hear) {notes}",
    "{light} keys, {piano}, {notes}",
)
TITLED = (
    "{piano} (plays|playing|play) {title}{tail}",
    "{title} (on|played on|played by) {piano}{tail}",
    "(play|hear|the song|the tune|the melody of|song:) {title}{tail}",
    "{title}",
    "{piano}(:|,) {title}{tail}",
    "{title} (slowly|) (on|from) {piano}",
)
NOTELESS = (
    "{piano}",
    "{piano} (plays|playing)( a (song|tune|melody)| music| something| by itself|){tail}",
    "(piano|toy piano) (music|melody|tune|song|sounds)",
    "(play|hear) (the |a |)(piano|toy piano)",
    "(a |)(melody|tune|song) (on|played on|from) {piano}",
    "{piano} with {light} (keys|lights)",
)
TUNE_TITLES = {
    "Twinkle, Twinkle": "(twinkle twinkle|twinkle twinkle little star|twinkle, twinkle|twinkle)",
    "Mary Had a Little Lamb": "(mary had a little lamb|little lamb)",
    "Frere Jacques": "(frere jacques|frère jacques|brother john)",
    "Ode to Joy": "(ode to joy|the ode to joy)",
    "Jingle Bells": "jingle bells",
    "London Bridge": "(london bridge|london bridge is falling down)",
    "a rising scale": "(a rising scale|a scale going up|an ascending scale|rising scale|scale up)",
    "a falling scale": "(a falling scale|a scale going down|a descending scale|falling scale|scale down)",
}
SOLFEGE = {"C": "do", "D": "re", "E": "mi", "F": "fa", "G": "sol", "A": "la", "B": "ti"}
PIANO_NOUNS = ("piano", "piano", "toy piano", "toy piano", "toy piano", "keyboard", "kids piano")
PIANO_PACE = {
    "slow": "( slowly| slow| at a slow pace|, slowly)",
    "easy": "( at an easy pace|, easy pace)",
    "quick": "( quickly| fast| at a quick pace|, fast)",
}
NOTELESS_SHARE, TITLE_SHARE = 0.1, 0.6
SEPARATORS = (*(" ",) * 10, *(", ",) * 4, "-", "-", ",", " - ", "", "", " then ", "...")


def write_piano(draft: Draft) -> str:
    notes = tuple(draft.attributes["notes"])
    started = [title for title, tune in TUNES.items() if tune[: len(notes)] == notes and len(notes) >= 3]
    if draft.chance(NOTELESS_SHARE):
        options = NOTELESS
    elif draft.attributes["tune"] and draft.chance(TITLE_SHARE):
        options = TITLED
    elif draft.held_out:
        options = PIANO_HELD_OUT
    else:
        options = tuple(template for template in PIANO if started or "{prefix}" not in template)
    slots = {
        "piano": lambda: _piano(draft),
        "notes": lambda: _notes(draft),
        "short_notes": lambda: _notes(draft),
        "light": lambda: _light(draft),
        "wall": lambda: draft.fix("wall"),
        "tail": lambda: _tail(draft),
        "title": lambda: _title(draft),
        "prefix": lambda: draft.expand(TUNE_TITLES[draft.pick(started)]),
    }
    return expand(draft.rng, draft.pick(options), slots)


def _piano(draft: Draft) -> str:
    noun = draft.pick(PIANO_NOUNS)
    before = []
    if draft.chance(0.1):
        draft.adjective = draft.pick(THING_ADJECTIVES)
        before.append(draft.adjective)
    if draft.chance(0.35):
        before.append(draft.fix("body"))
    return with_article(draft, " ".join([*before, noun]))


def _notes(draft: Draft) -> str:
    draft.fix("notes")
    names = [str(name) for name in draft.attributes["notes"]]
    if draft.chance(0.03):
        return " ".join(SOLFEGE[name] for name in names)
    separator = draft.pick(SEPARATORS)
    lower = separator != "" and draft.chance(0.22)
    names = [name.lower() for name in names] if lower else names
    if len(names) > 1 and draft.chance(0.08) and separator != "":
        return keep(f"{(separator if separator != ' then ' else ', ').join(names[:-1])} and {names[-1]}")
    return keep(separator.join(names))


def _title(draft: Draft) -> str:
    draft.fix("notes")
    return draft.expand(TUNE_TITLES[draft.fix("tune")])


def _light(draft: Draft) -> str:
    light = draft.fix("light")
    return draft.pick(("rainbow", "rainbow coloured", "colourful rainbow")) if light == "rainbow" else light


def _tail(draft: Draft) -> str:
    chance = draft.rng.random()
    if chance < 0.12:
        return draft.expand(PIANO_PACE[draft.fix("pace")])
    if chance < 0.18:
        return f"{draft.pick((' and glows', ', keys glow', ', glowing', ' with lights in'))} {_light(draft)}"
    if chance < 0.22:
        wall = draft.fix("wall")
        return f"{draft.pick((' in front of a', ' before a', ', a'))} {wall} wall"
    return ""
