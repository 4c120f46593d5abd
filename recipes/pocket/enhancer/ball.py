"""Ideas of the ball family."""

from recipes.pocket.captions import IMPACT
from recipes.pocket.enhancer.draft import Draft, with_article
from recipes.pocket.enhancer.hand import expand
from recipes.pocket.enhancer.vocabulary import THING_ADJECTIVES

BALL = (
    "{ball} {falls}{more}",
    "{ball} {falls}{more}",
    "{ball} {falls}",
    "{ball} {falling}{more}",
    "{falling} {bare_ball}{more}",
    "{bare_ball}{more}",
    "{ball}",
    "{ball_list}",
    "{ball_list}, {falling}{more}",
    "{ball_list}( -|:|,|) {falls}{more}",
    "(drop|throw down|let go of) {ball}{more}{dropped}",
    "(toss|throw up|throw) {ball}( up| into the air){more}{tossed}",
    "(make|let) {ball} {fall}{more}",
    "(in front of|before) a {wall} wall(,|) {ball} {falls}",
    "{wall} (wall|background), {ball} {falling}",
    "{ball} (that|which) {falls}{more}",
    "(i|we|you|you can) (drop|let go of) {ball}{more}{dropped}",
    "(there is|here is|this is) {ball}. (it|the ball) {falls}{more}",
    "(a room with|in a room|in a simple room) {ball} (that|) {falls}{more}",
    "{bare_ball} {falling}, {wall} (wall|background)",
    "{ball} and it {falls}{more}",
    "(the|a|my) {noun} is {looks}(. it|, it| and|; it) {falls}{more}",
    "{falling}: {bare_ball}",
    "(physics|gravity|bounce) (test|demo): {ball} {falls}{more}",
    "(how|watch how|see how|look at how) {ball} {falls}{more}",
    "(sound|noise) of {ball} {falling}{more}",
)
BALL_HELD_OUT = (
    "{falling}{more}: {bare_ball}",
    "{ball}, it {falls}{more}",
    "(we see|there is) {ball} (and|then) it {falls}",
    "from above {ball} {falls}{more}",
    "{looks} (ball|sphere) {falling}",
    "a (ball|sphere), {looks}, {falls}{more}",
)
BALL_NOUNS = ("ball", "ball", "ball", "ball", "ball", "ball", "sphere", "orb")
MATERIAL_WORDS = {
    "rubber": ("rubber", "rubber", "rubber", "bouncy rubber"),
    "wood": ("wooden", "wooden", "wood"),
    "metal": ("metal", "metal", "metal", "steel", "metallic", "iron"),
    "glass": ("glass",),
}
STUFF_WORDS = {"rubber": ("rubber",), "wood": ("wood",), "metal": ("metal", "steel"), "glass": ("glass",)}
FALL = {
    "dropped": {
        "falls": (
            "(falls|drops|is falling|falls down|drops down|is dropped|falls to the (floor|ground)|"
            "drops (to|on|onto) the (floor|ground)|falls on the (floor|ground)|comes down|gets dropped|fall|"
            "drop|falls and bounces|drops and bounces|falls from above|lands on the (floor|ground)|goes down)"
        ),
        "falling": (
            "(falling|dropping|falling down|dropping down|falling and bouncing|being dropped|coming down|"
            "dropping to the (floor|ground)|falling (to|on|onto) the (floor|ground))"
        ),
        "fall": "(fall|drop|fall down|drop down|fall and bounce|fall to the (floor|ground)|come down)",
    },
    "tossed": {
        "falls": (
            "(is tossed up|is thrown up|flies up and falls( down| back|)|goes up and (down|comes down)|"
            "is thrown (up|in the air|into the air) and (falls|comes) (down|back)|is tossed (up |)and falls|"
            "rises (a little |)and (falls|drops)|gets thrown up|is tossed into the air)"
        ),
        "falling": (
            "(tossed up|thrown up|thrown into the air|flying up and falling( down|)|tossed in the air)"
        ),
        "fall": "(fly up and fall|go up and (down|come down)|rise and fall)",
    },
    "": {
        "falls": (
            "(bounces|is bouncing|hits the (floor|ground)|bounces on the (floor|ground)|bounce|is "
            "bouncing around)"
        ),
        "falling": "(bouncing|hitting the (floor|ground)|bouncing on the (floor|ground))",
        "fall": "(bounce|hit the (floor|ground)|bounce on the (floor|ground))",
    },
}
DIRECTION_WORDS = {
    "straight down": "(straight down|straight up and down|in place|on the spot|vertically)",
    "left": (
        "((moving |drifting |going |travelling |)(to the left|left)|towards the left|leftwards|from "
        "right to left)"
    ),
    "right": (
        "((moving |drifting |going |travelling |)(to the right|right)|towards the right|rightwards|"
        "from left to right)"
    ),
}
FLOOR_WORDS = (
    ("(on|onto) (an|the) oak floor", ("oak",)),
    ("(on|onto) (a|the) (dark wooden|dark wood) floor", ("dark wood",)),
    (
        "(on|onto) (a|the|) (wooden|wood) floor",
        ("dark wood", "oak"),
    ),  # the first is a "dark wooden floor" in prompts
    ("(on|onto) (a |the |)(slate floor|slate)", ("slate",)),
    ("(on|onto) (a |the |)(white tiled floor|white tiles|tiled floor|tiles)", ("white tile",)),
    ("(on|onto) (a |the |)(terracotta floor|terracotta|terracotta tiles)", ("terracotta",)),
)
HEIGHT_WORDS = {
    "high": "from (high up|a height|high above|a great height|high|way up|high up in the air)",
    "low": "from (low down|a small height|low|just above the floor|close to the floor)",
}
WALL_TAIL = (
    "( in front of a {} wall| before a {} wall|, {} wall| with a {} wall( behind it|)| against a {} "
    "wall|, {} background)"
)
AND_BOUNCES = (" and bounces", " and bounces", " and hits the floor", ", bouncing", " bouncing")
TIMES = {
    1: "(once|one time|1 time)",
    2: "(twice|two times|2 times|2x)",
    3: "(three times|3 times|3x|thrice)",
    4: "(four times|4 times|4x)",
    5: "(five times|5 times|5x)",
    6: "(six times|6 times|6x)",
    7: "(seven times|7 times|7x)",
}
COLOUR_SHARE, MATERIAL_SHARE, ADJECTIVE_SHARE = 0.72, 0.6, 0.12
TAILS = (0.5, 0.34, 0.12, 0.04)  # how often none, one, two, three details follow


def write_ball(draft: Draft) -> str:
    start = draft.attributes["start"]
    ways = {"dropped": "{tossed}", "tossed": "{dropped}"}
    options = [t for t in (BALL_HELD_OUT if draft.held_out else BALL) if ways[str(start)] not in t]
    fall = str(start) if draft.chance(0.65) else ""
    verb: list[str] = []

    def move(form: str) -> str:
        if fall:
            draft.fix("start")
        verb.append(draft.expand(FALL[fall][form]))
        return verb[-1]

    def said(name: str) -> str:
        draft.fix(name)
        return ""

    slots = {
        "ball": lambda: with_article(draft, _ball(draft)),
        "bare_ball": lambda: _ball(draft),
        "ball_list": lambda: ", ".join(_looks(draft, draft.pick(BALL_NOUNS))),
        "looks": lambda: draft.pick((" and ", " and ", ", ", " ")).join(_looks(draft)),
        "noun": lambda: draft.pick(BALL_NOUNS),
        "falls": lambda: move("falls"),
        "falling": lambda: move("falling"),
        "fall": lambda: move("fall"),
        "dropped": lambda: said("start"),
        "tossed": lambda: said("start"),
        "wall": lambda: draft.fix("wall"),
        "more": lambda: _details(draft, verb[-1] if verb else ""),
    }
    return expand(draft.rng, draft.pick(options), slots)


def _ball(draft: Draft) -> str:
    noun = draft.pick(BALL_NOUNS)
    colour = draft.fix("colour") if draft.chance(COLOUR_SHARE) else ""
    material = draft.fix("material") if draft.chance(MATERIAL_SHARE) else ""
    if draft.chance(ADJECTIVE_SHARE):
        draft.adjective = draft.pick(THING_ADJECTIVES)
    made = material and draft.chance(0.25)
    word = draft.pick((STUFF_WORDS if made else MATERIAL_WORDS)[material]) if material else ""
    before = [draft.adjective, colour, "" if made else word]
    if draft.chance(0.12):
        before.reverse()
    stuff = f"{draft.pick((' of', ' made of', ' made from', ' made out of'))} {word}" if made else ""
    return f"{' '.join(part for part in [*before, noun] if part)}{stuff}"


def _looks(draft: Draft, noun: str = "") -> list[str]:
    """Colour and material as words of a list, at least one of them; a noun comes first or last."""
    looks = []
    only = draft.rng.random()
    if only < 0.75:
        looks.append(draft.fix("colour"))
    if only > 0.4:
        material = draft.fix("material")
        made = not noun and draft.chance(0.6)
        word = draft.pick((STUFF_WORDS if made else MATERIAL_WORDS)[material])
        looks.append(f"made of {word}" if made else word)
    if draft.chance(0.2) and not any(look.startswith("made") for look in looks):
        looks.reverse()
    return [part for part in ([noun, *looks] if draft.chance(0.8) else [*looks, noun]) if part]


def _details(draft: Draft, verb: str) -> str:
    count = int(draft.rng.choice(len(TAILS), p=TAILS))
    makers = (_count, _count, _direction, _floor, _height, _wall, _sound)
    details, used = "", set()
    for index in draft.rng.permutation(len(makers))[:count]:
        maker = makers[int(index)]
        if maker not in used:
            details += maker(draft, verb if not details else "")
            used.add(maker)
    return details


def _count(draft: Draft, verb: str) -> str:
    times = draft.expand(TIMES[int(draft.fix("bounces"))])
    if "boun" in verb or "hit" in verb:
        return f" {times}"
    return f"{draft.pick(AND_BOUNCES)} {times}"


def _direction(draft: Draft, verb: str) -> str:  # noqa: ARG001 - details share one signature
    return f" {draft.expand(DIRECTION_WORDS[draft.fix('direction')])}"


def _floor(draft: Draft, verb: str) -> str:
    floors = [(words, names) for words, names in FLOOR_WORDS if draft.attributes["floor"] in names]
    if not floors or "floor" in verb or "ground" in verb:
        return ""
    words, names = floors[int(draft.rng.integers(len(floors)))]
    draft.fixed["floor"] = names
    return f" {draft.expand(words)}"


def _height(draft: Draft, verb: str) -> str:
    if draft.attributes["height"] not in HEIGHT_WORDS or "above" in verb:
        return ""
    return f" {draft.expand(HEIGHT_WORDS[draft.fix('height')])}"


def _wall(draft: Draft, verb: str) -> str:  # noqa: ARG001 - details share one signature
    return draft.expand(WALL_TAIL.replace("{}", draft.fix("wall")))


def _sound(draft: Draft, verb: str) -> str:  # noqa: ARG001 - details share one signature
    """The sound it makes, which also tells the material."""
    sound = draft.pick([impact.split()[-1] for impact in IMPACT[draft.fix("material")]])
    draft.needed.append(sound)
    return (
        f"{draft.pick((' with a', ', with a loud', ' with a loud', ', you hear a', ' and makes a'))} {sound}"
    )
