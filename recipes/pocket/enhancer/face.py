"""Ideas of the face family: who speaks, and the words, in quotes or not."""

import re

from recipes.pocket.enhancer.draft import Draft, with_article
from recipes.pocket.enhancer.hand import expand, keep, listed
from recipes.pocket.enhancer.vocabulary import COMMON_STYLES
from recipes.pocket.world.person import HAIR_COLOURS

FACE = (
    "{person} {says}{manner}(:|,|) {quote}",
    "{person} {says} {quote}",
    "{person} {says}(:|,|) {quote}{voice}",
    "{person}: {quote}",
    "{person}( -|,|) {quote}",
    "{person} saying(:|) {quote}{voice}",
    "{quote}(,|) {says} {person}",
    "{quote}",
    "(say|speak)(:|) {quote}{nobody}",
    "(make|let|have) {person} say(:|) {quote}",
    "{person} (who|that) {says}(:|) {quote}",
    "{person} (looks|looking) at (the camera|us|me|the viewer)(: | and says |, saying | and saying ){quote}",
    "{person} (smiles and says|smiling and saying|with a smile says){smile}(:|) {quote}",
    "{person} (nods and|blinks and|talks and) {says}(:|) {quote}",
    "(in front of|before|against) a {wall} wall(,|) {person} {says} {quote}",
    "{person}, {wall} (wall|background)(,|) {says}(:|) {quote}",
    "{person} talking to (the camera|us|me|the viewer)(:|,|) {quote}",
    "{person} (talks|speaks|talking|speaking)(:|,) {quote}",
    "(close-up|portrait|head shot|face|closeup) of {person} (saying|who says|speaking:) {quote}",
    "(the words|words|line|speech|dialogue)(:|) {quote}( by| from| -) {person}",
    "{person} {says} {quote} and (says|then|then says|adds) {more_quote}",
    "{person}: {quote} {more_quote}",
    "{person}. {pronoun} {says}(:|,|) {quote}",
    "(there is|here is|this is) {person}. {pronoun} {says}(:|,|) {quote}",
    "{person} {says} the (word|words|phrase|line|sentence)(:|) {quote}{voice}",
    "{person} (opens|opening) (his|her|the) mouth and {says}(:|) {quote}",
    "{person} (greets|greeting) (us|you|everyone|the viewer)(:|,| with) {quote}",
    "{quote} (is said|said|spoken) by {person}",
    "i want {person} to say(:|) {quote}",
    "{person} {says} {quote}. ({pronoun}|then|after that|and) (says|adds|) {more_quote}",
    "{person} (with|and) (the|a) (phrase|line|speech|sentence|message|text)(:|) {quote}",
    "{person}: the (word|words)(:|) {quote}",
    "{wall} background(:|,) {person} {says} {quote}",
    "(a |)(video|clip) of {person}, (the words|words|speech)(:|) {quote}",
)
FACE_HELD_OUT = (
    "{person}, saying {quote}",
    "{quote} - {person}",
    "(here|now) {person} {says}{manner}: {quote}",
    "{person} with the words {quote}",
    "(there is|we see) {person} and {pronoun} {says} {quote}",
    "{wall} wall, {person}: {quote}",
)
UNQUOTED = (
    "{person} {says}(:|,|) {words}",
    "{person} {says} {words}",
    "{person}: {words}",
    "{person} saying(:|) {words}",
    "(make|let|have) {person} say {words}",
    "say(:|) {words}{nobody}",
    "{person} who says {words}",
    "{person} {says} the (word|words|phrase) {words}",
    "i want {person} to say(:|) {words}",
    "{person} (smiles and says|smiling and saying){smile} {words}",
    "{person} looking at the camera(,|) saying {words}",
)
UNQUOTED_HELD_OUT = (
    "{person}, saying {words}",
    "{person} looks at the camera and says {words}",
    "(we see|there is) {person} who says: {words}",
)
WORDLESS = (
    "{person} (talks|speaks|talking|speaking|is talking|is speaking|says something|saying something)",
    "{person} (talks|talking|speaks|speaking) to (the camera|us|me|the viewer)",
    "(talking|speaking) {person}",
    "{person}",
)
PERSON_NOUNS = {
    "man": ("man", "man", "man", "guy", "gentleman", "dad", "father", "grandpa", "dude", "fellow", "male"),
    "woman": ("woman", "woman", "woman", "lady", "mom", "mum", "mother", "grandma", "female"),
    "child": ("child", "child", "kid", "kid"),
    "girl": ("girl", "girl", "girl", "daughter"),
    "boy": ("boy", "boy", "boy", "son"),
    "anyone": ("person", "someone", "somebody", "cartoon", "cartoon character", "speaker", "character"),
}
PRONOUNS = {"man": "he", "woman": "she"}
PERSON_ADJECTIVES = listed(
    "happy|young|old|little|little|young|old|friendly|smiling|cheerful|cute|nice|funny|serious|kind|"
    "excited|tall|tired|beautiful|handsome|sad|angry|lovely|sleepy|proud"
)
SAYS = ("says", "says", "says", "says", "say", "said", "is saying", "tells us", "speaks", "goes")
OWN_VERBS = ("asks", "shouts", "whispers", "calls", "yells", "exclaims", "replies", "answers", "announces")
MANNERS = listed("loudly|softly|quietly|happily|sadly|gently|proudly|cheerfully|again|politely")
HAIR_WORDS = {
    "short": "short {} hair",
    "swept": "{} hair",
    "curly": "curly {} hair",
    "bald": "{} hair",
    "long": "long {} hair",
    "bob": "{} hair (in a bob|)",
    "bun": "{} hair (in a bun|)",
    "wavy": "wavy {} hair",
    "tuft": "{} hair",
    "pigtails": "{} (pigtails|hair)",
    "bowl": "{} hair",
    "cap": "{} hair",
}
GARMENT_WORDS = {
    "T-shirt": ("t-shirt", "T-shirt", "tshirt", "tee shirt", "t shirt"),
    "striped sweater": ("striped sweater", "sweater", "jumper", "pullover"),
    "hoodie": ("hoodie", "hoody"),
    "shirt with a collar": ("shirt", "collared shirt", "polo shirt"),
}
PITCH_WORDS = {
    "low": " (in|with) a (low|deep|low-pitched|dark) voice",
    "high": " (in|with) a (high|high-pitched|bright) voice",
}
PACE_WORDS = {
    "calm": "( in a calm voice| at a calm pace| calmly| slowly)",
    "brisk": "( briskly| quickly| fast| at a brisk pace)",
}
UNQUOTED_SHARE, WORDLESS_SHARE = 0.26, 0.08
STYLE_HINTS = {"girl": "pigtails", "boy": "bowl"}


def write_face(draft: Draft) -> str:
    kind = draft.rng.random()
    if kind < UNQUOTED_SHARE:
        templates = UNQUOTED_HELD_OUT if draft.held_out else UNQUOTED
        draft.words = " ".join(draft.attributes["words"])
    elif kind < UNQUOTED_SHARE + WORDLESS_SHARE:
        templates = WORDLESS
    else:
        templates = FACE_HELD_OUT if draft.held_out else FACE

    def smile() -> str:
        draft.needed.append("smiling cartoon")
        return ""

    slots = {
        "person": lambda: _person(draft),
        "says": lambda: _says(draft),
        "quote": draft.quote,
        "more_quote": draft.quote,
        "words": lambda: keep(draft.words),
        "wall": lambda: draft.fix("wall"),
        "manner": lambda: _pace(draft) if draft.chance(0.12) else "",
        "voice": lambda: _voice(draft) if draft.chance(0.35) else "",
        "nobody": str,
        "pronoun": lambda: draft.pick(
            (PRONOUNS.get(str(draft.attributes["person"]), "the child"), "the person")
        ),
        "smile": smile,
    }
    return expand(draft.rng, draft.pick(templates), slots)


def _says(draft: Draft) -> str:
    if draft.verb or not draft.chance(0.2):
        return draft.pick(SAYS)
    draft.verb = draft.pick(OWN_VERBS) if draft.chance(0.7) else f"says {draft.pick(MANNERS)}"
    return draft.verb


def _pace(draft: Draft) -> str:
    return draft.expand(PACE_WORDS[draft.fix("pace")])


def _voice(draft: Draft) -> str:
    if draft.attributes["pitch"] in PITCH_WORDS and draft.chance(0.7):
        return draft.expand(PITCH_WORDS[draft.fix("pitch")])
    return _pace(draft)


def _person(draft: Draft) -> str:
    a = draft.attributes
    kind = str(a["person"])
    if kind in PRONOUNS and draft.chance(0.04):
        draft.fix("person")
        return PRONOUNS[kind]
    if draft.chance(0.06):
        noun = draft.pick(PERSON_NOUNS["anyone"])
    else:
        draft.fix("person")
        noun = draft.pick(PERSON_NOUNS[_nouns(draft, kind)])
    before, after = [], []
    if draft.chance(0.14):
        draft.adjective = draft.pick(PERSON_ADJECTIVES)
        before.append(draft.adjective)
    if a["style"] != "bald" and draft.chance(0.1):
        forms = ("", "-haired", " haired") if a["hair"] in HAIR_COLOURS else ("-haired", " haired")
        before.append(draft.fix("hair") + draft.pick(forms))
    elif draft.chance(0.17):
        hair = draft.expand(HAIR_WORDS[str(a["style"])].replace("{}", draft.fix("hair")))
        after.append(f"with {hair}")
        if re.search("|".join(COMMON_STYLES), hair):
            draft.fix("style")
    after += _extras(draft)
    after = [after[int(index)] for index in draft.rng.permutation(len(after))]
    if len(after) > 1 and draft.chance(0.5):
        after[-1] = f"and {after[-1]}"
    described = " ".join([*before, noun, *after])
    return described if noun.startswith("some") else with_article(draft, described)


def _nouns(draft: Draft, kind: str) -> str:
    """Which nouns may be used: pigtails make a girl, a bowl cut a boy or a girl."""
    if kind != "child":
        return kind
    noun = draft.pick(
        ("girl", "child") if draft.attributes["style"] == "pigtails" else ("boy", "girl", "child")
    )
    if noun in STYLE_HINTS:
        draft.hints["style"] = STYLE_HINTS[noun]
    return noun


def _extras(draft: Draft) -> list[str]:
    a = draft.attributes
    extras = []
    if draft.chance(0.2):
        words = draft.pick(GARMENT_WORDS.get(draft.fix("garment"), (str(a["garment"]),)))
        clothes = draft.fix("clothes")
        article = "an" if clothes[0] in "aeiou" else "a"
        extras.append(f"{draft.pick(('in', 'in', 'wearing', 'with'))} {article} {clothes} {words}")
    elif draft.chance(0.05):
        extras.append(f"in {draft.fix('clothes')}")
    if a["glasses"] and draft.chance(0.45):
        draft.fix("glasses")
        extras.append(draft.pick(("with glasses", "wearing glasses", "in glasses")))
    if a["beard"] and draft.chance(0.45):
        extras.append(f"with a {draft.fix('beard')}")
    if draft.chance(0.07):
        wall = draft.fix("wall")
        extras.append(
            draft.pick((f"in front of a {wall} wall", f"before a {wall} wall", f"against a {wall} wall"))
        )
    return extras
