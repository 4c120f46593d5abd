"""Ideas as people type them, written by hand before the training data was. The enhancer never trains on them.

Each is a text and what its prompt must state. Those of FOREIGN lie outside the world: the enhancer must
answer nothing.
"""

import re

from recipes.pocket.enhancer.ideas import OUTSIDE, Idea

QUOTE = re.compile('"[^"]+"|“[^”]+”|「[^」]+」')
BALLS = (
    ("red ball falls", {"colour": "red"}),
    ("a blue metal ball drops on the floor", {"colour": "blue", "material": "metal"}),
    ("ball falls", {}),
    ("metal sphere drops", {"material": "metal"}),
    ("Green rubber ball bouncing", {"colour": "green", "material": "rubber"}),
    ("wooden ball hits the floor twice", {"material": "wood", "bounces": 2}),
    ("yellow ball, glass, falling down", {"colour": "yellow", "material": "glass"}),
    ("a purple ball made of wood is dropped", {"colour": "purple", "material": "wood"}),
    ("orange ball bounces three times", {"colour": "orange", "bounces": 3}),
    ("glass ball", {"material": "glass"}),
    ("drop a red glass ball", {"colour": "red", "material": "glass"}),
    ("an orange rubber ball is thrown up and comes down", {"colour": "orange", "material": "rubber"}),
    ("blue ball bounces to the left", {"colour": "blue", "direction": "left"}),
    ("bouncing ball, green, in front of a pink wall", {"colour": "green", "wall": "pink"}),
    (
        "I want to see a yellow metal ball falling onto a slate floor",
        {"colour": "yellow", "material": "metal"},
    ),
    ("a ball of glass drops and bounces 4 times", {"material": "glass", "bounces": 4}),
    ("steel ball falling", {"material": "metal"}),
    ("purple bal fals", {"colour": "purple"}),
    ("a wooden red ball", {"colour": "red", "material": "wood"}),
    ("make a purple ball bounce", {"colour": "purple"}),
    ("the red ball falls from high up and bounces", {"colour": "red"}),
    ("RED BALL", {"colour": "red"}),
    ("a pink ball drops", {"colour": "pink"}),
    ("a black rubber ball bounces", {"colour": "black", "material": "rubber"}),
    ("a big blue ball falls on the floor", {"colour": "blue"}),
    ("ball falling down, wood", {"material": "wood"}),
    ("green glass marble falls to the ground", {"colour": "green", "material": "glass"}),
    ("the ball is blue and made of rubber. it falls.", {"colour": "blue", "material": "rubber"}),
    ("video of a shiny metal ball bouncing", {"material": "metal"}),
    ("orange wood ball drops once", {"colour": "orange", "material": "wood", "bounces": 1}),
    (
        "red rubber ball bounces five times on wooden floor",
        {"colour": "red", "material": "rubber", "bounces": 5},
    ),
    ("can you make a little green ball fall?", {"colour": "green"}),
    ("一个红色的球落下", {"colour": "red"}),
    ("蓝色金属球掉下来", {"colour": "blue", "material": "metal"}),
)
FACES = (
    ('girl says "hello"', {"person": "child"}),
    ("girl says hello", {"person": "child", "words": "hello"}),
    ('a man: "yes"', {"person": "man"}),
    ('A woman says "Good morning, everyone!"', {"person": "woman"}),
    ('boy says "banana"', {"person": "child"}),
    ('"wow"', {}),
    ('a lady in a red shirt says "summer"', {"person": "woman", "clothes": "red"}),
    ('old man with glasses says "I told you so."', {"person": "man", "glasses": True}),
    ("a guy says “no no no”", {"person": "man"}),
    ('kid: "mama!"', {"person": "child"}),
    ('Woman with curly black hair saying "water please"', {"person": "woman", "hair": "black"}),
    ("man says goodbye", {"person": "man", "words": "goodbye"}),
    ('she says "moon"', {"person": "woman"}),
    ('"happy robot", says a child', {"person": "child"}),
    ('a man with a beard and a blue hoodie says "tiger"', {"person": "man", "clothes": "blue"}),
    ('make a woman say "apple"', {"person": "woman"}),
    ('a happy little girl says "cookie"', {"person": "child"}),
    ('a person says "hello world"', {}),
    ('man looking at the camera: "music"', {"person": "man"}),
    ('blond woman in green sweater says "yes"', {"person": "woman", "hair": "blond", "clothes": "green"}),
    ('a boy with glasses shouts "goal!"', {"person": "child", "glasses": True}),
    ('a woman says "hello" and then "goodbye"', {"person": "woman"}),
    ('dad says "dinner is ready"', {"person": "man"}),
    ('a child in front of a pink wall says "wow"', {"person": "child", "wall": "pink"}),
    ('a man says "yes" in a deep voice', {"person": "man", "pitch": "low"}),
    ("lady says thank you", {"person": "woman", "words": "thank you"}),
    ('a cartoon man talking, "hello, happy tiger"', {"person": "man"}),
    ('Guy with grey hair says: "Welcome to my channel"', {"person": "man", "hair": "grey"}),
    ('girl in yellow t-shirt smiles and says "hi"', {"person": "child", "clothes": "yellow"}),
    ("a woman talking", {"person": "woman"}),
    ('a man quickly says "no"', {"person": "man", "pace": "brisk"}),
    ("女孩说“你好”", {"person": "child"}),
    ("一个男人说：“再见”", {"person": "man"}),
    ("a mother says 「ありがとう」", {"person": "woman"}),
    ("boy saying mama", {"person": "child", "words": "mama"}),
)
PIANOS = (
    ("play C E G", {"notes": "CEG"}),
    ("twinkle-like melody C C G", {"notes": "CCG"}),
    ("piano plays C D E", {"notes": "CDE"}),
    ("toy piano", {}),
    ("a red toy piano plays E, D, C", {"notes": "EDC", "body": "red"}),
    ("piano c e g c", {"notes": "CEGC"}),
    ("notes G-A-B on a toy piano", {"notes": "GAB"}),
    ("twinkle twinkle on the piano", {"notes": "CCGGAA"}),
    ("a blue piano playing A B C D", {"notes": "ABCD", "body": "blue"}),
    ("C, C, G, G, A, A", {"notes": "CCGGAA"}),
    ("the keys light up red: F A C", {"notes": "FAC", "light": "red"}),
    ("a small white piano plays a song", {"body": "white"}),
    ("play the notes D and F", {"notes": "DF"}),
    ("Toy piano: EGBDF", {"notes": "EGBDF"}),
    ("piano melody", {}),
    ("jingle bells on a pink toy piano", {"notes": "EEEEEE", "body": "pink"}),
    ("piano plays C E G slowly", {"notes": "CEG", "pace": "slow"}),
    (
        "a green toy piano, rainbow keys, plays A G F E",
        {"notes": "AGFE", "body": "green", "light": "rainbow"},
    ),
    ("can the piano play B A G", {"notes": "BAG"}),
    ("c major scale C D E F G A B C", {"notes": "CDEFGABC"}),
    ("ode to joy", {"notes": "EEFGGF"}),
    ("paino plays F F G", {"notes": "FFG"}),
    ("play E then G then C on the piano", {"notes": "EGC"}),
    ("A turquoise toy piano plays the melody G E C", {"notes": "GEC", "body": "turquoise"}),
    ("keyboard: C E G E C", {"notes": "CEGEC"}),
    ("玩具钢琴弹 C D E", {"notes": "CDE"}),
)
FOREIGN = (
    "a dragon flies",
    "sunset over the ocean",
    'a dog says "hello"',
    "two balls collide",
    "a man plays guitar on stage",
    "red balloon floats away",
    "a girl dances in the rain",
    "ball rolls down the stairs",
    "a car crash",
    'a woman walks through a forest and says "hello"',
    "piano falls from the roof",
    "a man plays the piano",
    "the camera zooms in on a red ball",
    "cat",
    "a basketball player scores",
    "metal ball falls into water",
    'a sign that reads "open"',
    'a boy says "hi" and a girl answers "bye"',
    "astronaut riding a horse",
    "a glass of water breaks",
    "something beautiful",
    "test",
    "a robot walking in a city at night",
    "the ball explodes",
    "一只猫在跳舞",
    "violin plays C E G",
    "a man with a sword says nothing",
    "fireworks",
)


def typed_ideas() -> list[Idea]:
    families = (("ball", BALLS), ("face", FACES), ("piano", PIANOS))
    inside = [read_typed(text, family, fixed) for family, ideas in families for text, fixed in ideas]
    return inside + [read_typed(text, OUTSIDE, {}) for text in FOREIGN]


def read_typed(text: str, family: str, fixed: dict) -> Idea:
    """The idea with its quotes taken out; there is no one right prompt for it."""
    quotes: list[str] = []

    def take(match: re.Match[str]) -> str:
        quotes.append(match[0])
        return f"<Q{len(quotes)}>"

    taken = QUOTE.sub(take, text)
    facts = {name: value for name, value in fixed.items() if name != "words"}
    return Idea(taken, "", family, facts, tuple(quotes), str(fixed.get("words", "")))
