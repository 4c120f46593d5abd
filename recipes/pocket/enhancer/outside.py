"""Ideas that the world cannot show: other things and deeds, or something foreign in an idea of the world."""

import re

import numpy as np

from recipes.pocket.enhancer.hand import expand, keep, pick, syllables
from recipes.pocket.enhancer.vocabulary import (
    COLOURS,
    DEEDS,
    DEEDS_HELD_OUT,
    KNOWN,
    LOOKS,
    LOOKS_HELD_OUT,
    NOUNS,
    NOUNS_HELD_OUT,
    PLACES,
    PLACES_HELD_OUT,
    STUFFS,
    STUFFS_HELD_OUT,
)

PURE = (
    "(a |the |an |){noun} {deed}",
    "(a |the |){colour} {noun} {deed}",
    "(a |the |){noun} {deed} {place}",
    "(a |the |){noun} {place}",
    "(a |the |){noun} and (a |the |){noun}",
    "(a |the |){noun} (with|near|chasing|behind|on|under) (a|the) {noun}",
    "{noun}",
    "{colour} {noun}",
    "two {noun}s {place}",
    "(a |the |)({colour} |){stuff} (ball|sphere|ball|orb)( falls| drops| bounces| falls down|)",
    "(a |the |)({colour} |)(ball|sphere) (made of|of) {stuff}( falls| drops| bounces|)",
    "(drop|throw|make) a ({colour} |){stuff} ball( bounce| fall|)",
    "{noun}s (fighting|flying|running|swimming|dancing|playing)( {place}|)",
    "(a |the |){noun} falls( {place}|)",
    "(a |the |){colour} {noun} (falls|drops|bounces)( on the floor|)",
    "(a |the |){colour} (metal|wooden|glass|rubber) {noun}( falls| drops| bounces|)",
    "(a |the |){noun} says {quote}",
    "(a |the |){noun}: {quote}",
    "(a |the |){noun} plays {notes}",
    "{notes} on (a |the |){noun}",
    "(timelapse of|close-up of|aerial view of|drone shot of|painting of) (a |the |){noun}( {place}|)",
    "(a |the |){noun} (made of|full of) (gold|stone|water|paper|light|wood|glass)",
    "(a |the |){noun} {deed} and (a |the |){noun} {deed}",
    "(a |the |){noun} {deed}, then {deed}",
    "a (sign|poster|book|banner|shirt) (that reads|saying|with the words|which says) {quote}",
)
NEAR = (
    "(a |the |){known} {deed}",
    "(a |the |){known} {deed}",
    "(a |the |){known} {deed} {place}",
    "(a |the |){known} {place}",
    "(a |the |){known} (and|with|near|on|under|behind|inside|next to) (a|the) {noun}",
    "(a |the |){noun} (and|with|near|on|under|behind|holding|next to) (a|the) {known}",
    "(a |the |){look} {known}( falls| says {quote}|)",
    "(a |the |)({colour} |)ball bounces (eight|nine|ten|twelve|20|100|a hundred|fifty|8|9|10) times",
    "(two|three|many|several|five|some) {known}s( fall| falling| bounce| talking| collide|)",
    "(a |the |){known} {deed} and says {quote}",
    "(a |the |){known} {deed} while saying {quote}",
    (
        "(a |the |)(man|woman|girl|boy|kid) (says|asks) {quote} and (a |the |)(man|woman|girl|boy|"
        "other) (answers|says|replies) {quote}"
    ),
    (
        "(a man and a woman|two people|a boy and a girl|two girls|people) (say|talk|talking|saying|"
        "argue)(:|) {quote}( {quote}|)"
    ),
    "(a |the |)(man|woman|girl|boy|kid|person) (plays|playing|at) (the |a |)(piano|toy piano)( {notes}|)",
    "(a |the |)(man|woman|girl|boy|kid) (with|holding|throws|kicks|catches) a ball",
    (
        "(a |the |){known}, (camera zooms in|slow motion|zoom in|the camera pans left|tracking shot|"
        "camera orbits)"
    ),
    "(camera zooms in on|slow motion|zoom on|drone shot of|timelapse of) (a |the |){known}",
    "(a |the |)(ball|piano|sphere) (says|shouts|talks|sings)( {quote}|)",
    "(a |the |)(man|woman|girl|boy|piano|toy piano) (falls|bounces|drops|falls down the stairs)",
    "(play|piano plays) (C# D# F#|Bb Eb Ab|F# A C#|C4 E4 G4|a chord|a jazz solo|Beethoven|a waltz|techno)",
    "{near} {place}",
    "{near} (and|while|then) (a |the |){noun} {deed}",
    "{near} (near|next to|behind|under|with) (a|the) {noun}",
    "{near}(,|) (and|and then|then) (it |he |she |){deed}",
    "(a |the |){noun} {deed}(, | and ){near}",
)
ODD = (
    "",
    (
        "(test|hello|hi|ok|asdf|qwerty|help|?|...|123|idk|nothing|video|something cool|surprise me|"
        "anything|xyz|aaa)"
    ),
    (
        "(a|the|) (beautiful|nice|cool|epic|funny|crazy|sad|dramatic) (scene|moment|day|story|memory|"
        "feeling|thing|video)"
    ),
    (
        "(love|happiness|freedom|hope|winter|summer|morning|midnight|christmas|birthday|war|peace|"
        "music|silence|dream)"
    ),
    "(what is|who is|how do i make|why is|where is) (a |the |){noun}(?|)",
    (
        "(write|tell me|explain|translate|ignore the instructions and write) (a poem|a joke|a story|"
        "code|this)( about {noun}s|)"
    ),
    (
        "(fireworks|sunset|sunrise|rain|snow|thunder|a storm|lightning|waves|wind|fog|an explosion)( "
        "over| on| in|)( the| a|) {noun}"
    ),
    "{long}",
)
CHINESE = (
    "(一只|一个|一条|)(猫|狗|鸟|龙|马|鱼|老虎|机器人|汽车|飞机|火箭|船)(在|)(跑|飞|跳|游泳|睡觉|跳舞|唱歌|爆炸|海边|城市里|森林里)",
    "(下雨|日落|海浪|烟花|下雪|打雷|星空|城市夜景|山上的房子)",
    "(男人|女人|孩子)(在|)(跑步|跳舞|做饭|开车|弹吉他|游泳|睡觉)",
    "(一只|)(猫|狗|鸟|机器人)说{quote}",
)


def write_outside(rng: np.random.Generator, near: str, held_out: bool) -> str:
    """An idea outside the world; `near` is one inside it, to which something foreign may be added."""
    chance = rng.random()
    templates = PURE if chance < 0.42 else NEAR if chance < 0.88 else ODD if chance < 0.95 else CHINESE
    return expand(rng, pick(rng, templates), _slots(rng, near, held_out))


def _slots(rng: np.random.Generator, near: str, held_out: bool) -> dict:
    quotes = iter(range(1, 9))

    def notes() -> str:
        names = [pick(rng, "CDEFGAB") for _ in range(int(rng.integers(3, 7)))]
        return pick(rng, (" ", ", ", "-")).join(names)

    def noun() -> str:
        """Now and then a word that means nothing: an unknown thing is foreign too."""
        if not held_out and rng.random() < 0.15:
            return syllables(rng)
        return pick(rng, NOUNS_HELD_OUT if held_out else NOUNS)

    def long() -> str:
        parts = [
            expand(rng, pick(rng, PURE), _slots(rng, near, held_out)) for _ in range(int(rng.integers(3, 24)))
        ]
        return re.sub(r"<Q\d>", "words", pick(rng, (". ", ", ", " and ")).join(parts))

    return {
        "noun": noun,
        "deed": lambda: pick(rng, DEEDS_HELD_OUT if held_out else DEEDS),
        "place": lambda: pick(rng, PLACES_HELD_OUT if held_out else PLACES),
        "known": lambda: pick(rng, KNOWN),
        "colour": lambda: pick(rng, COLOURS),
        "stuff": lambda: pick(rng, STUFFS_HELD_OUT if held_out else STUFFS),
        "look": lambda: pick(rng, LOOKS_HELD_OUT if held_out else LOOKS),
        "quote": lambda: keep(f"<Q{next(quotes)}>"),
        "notes": notes,
        "near": lambda: near,
        "long": long,
    }
