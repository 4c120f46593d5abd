"""The bank of scenes, `assets/scenes.npz`: first frames of the world in parts that can have any colours.

A part is drawn once in black and once for each of its colours, and over white for what it lets through. The
world's pictures are linear in their colours, so `mova.prompting.scenes` lays the parts over each other in
whatever colours an idea names, and gets what the world would draw.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mova.files import new_output
from mova.prompting.scenes import WEIGHT, ball_parts, face_parts, piano_parts
from recipes.pocket.world.ball import BALL_COLOURS, MATERIALS, draw_ball, draw_shadows
from recipes.pocket.world.canvas import Colour, Painter
from recipes.pocket.world.clip import HEIGHT, WIDTH
from recipes.pocket.world.face import REST, draw_features, shade_wall
from recipes.pocket.world.person import (
    CLOTHES,
    GARMENTS,
    HAIR_COLOURS,
    HEAD_BOX,
    IRISES,
    MOUTH_HEIGHT,
    SKINS,
    STYLES,
    Person,
    paint_back_hair,
    paint_body,
    paint_front_hair,
    paint_head,
)
from recipes.pocket.world.piano import (
    BODIES,
    KEY_LENGTH,
    KEY_WIDTH,
    KEYS_LEFT,
    KEYS_TOP,
    paint_keyboard,
    paint_piano,
    set_table,
)
from recipes.pocket.world.rooms import FLOORS, WALLS, light, paint_decor, paint_floor

BLACK: Colour = (0, 0, 0)
TEST = 200  # brightness that a colour's share is measured with
HEADS = {"man": (42.0, 64.0), "woman": (42.0, 64.0), "child": (38.0, 69.0)}  # half a head, and its middle
MIDDLE = 112.0  # of faces and of balls before they move
ROOMS = (("window", "plant"), ("picture", "shelf"), ("bunting", "clock"))  # what hangs left and right
GROUND, RADIUS, FLOOR_LINE = 110.0, 14.0, 92.0
HEIGHTS = {"high": 68.0, "low": 38.0}  # pixels below a ball
PIANO = (30, 30)  # its upper left corner

Draw = Callable[[np.ndarray, Mapping[str, Colour]], None]  # onto float32 [3, H, W], in place


@dataclass(frozen=True)
class Part:
    """How a part is drawn in given colours, and which those are."""

    draw: Draw
    colours: tuple[str, ...] = ()
    test: int = TEST


@dataclass(frozen=True)
class Dyed(Person):
    """A person whose hair and clothes have colours of no name."""

    dye: Colour = BLACK
    cloth: Colour = BLACK

    @property
    def hair_colour(self) -> Colour:
        return self.dye

    @property
    def clothes_colour(self) -> Colour:
        return self.cloth


def write_bank(path: Path) -> int:
    """Write the bank; return its size in bytes."""
    arrays: dict[str, np.ndarray] = {}
    for name, part in all_parts().items():
        arrays |= {f"{name}:{plane}": values for plane, values in separate(part).items()}
    for table, colours in colour_tables().items():
        arrays |= {f"{table}={name}": np.array(colour, np.uint8) for name, colour in colours.items()}
    for name, layout in layouts().items():
        arrays |= {f"layout={name}={key}": np.float32(value) for key, value in layout.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    with new_output(path, overwrite=True) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return path.stat().st_size


def colour_tables() -> dict[str, dict[str, Colour]]:
    """Colours by name, for each thing that has one."""
    return {
        "wall": WALLS,
        "hair": HAIR_COLOURS,
        "clothes": CLOTHES,
        "colour": BALL_COLOURS,
        "body": BODIES,
        "skin": {str(index): colour for index, colour in enumerate(SKINS)},
        "iris": {str(index): colour for index, colour in enumerate(IRISES)},
    }


def layouts() -> dict[str, dict[str, float]]:
    """Where things are, as in `world.clip.Clip`, by person, height of a ball, or "piano"."""
    left, top = PIANO
    return {
        **{
            kind: {"x": MIDDLE, "y": y, "half_head": s, "mouth_y": y + MOUTH_HEIGHT[kind] * s}
            for kind, (s, y) in HEADS.items()
        },
        **{
            name: {"x": MIDDLE, "y": GROUND - RADIUS - height, "radius": RADIUS, "ground": GROUND}
            for name, height in HEIGHTS.items()
        },
        "piano": {
            "keys_left": left + KEYS_LEFT,
            "keys_top": top + KEYS_TOP,
            "key_width": KEY_WIDTH,
            "key_length": KEY_LENGTH,
        },
    }


def separate(part: Part) -> dict[str, np.ndarray]:
    """The planes of a part, uint8 [h, w, 3], and its place: (top, left).

    "through": share of what is behind, of 255; "add": its own light; by colour: the share of it, of WEIGHT.
    """

    def drawn(behind: float, bright: str = "") -> np.ndarray:
        canvas = np.full((3, HEIGHT, WIDTH), behind, np.float32)
        part.draw(canvas, {name: (part.test,) * 3 if name == bright else BLACK for name in part.colours})
        return canvas

    add, over_white = drawn(0), drawn(255)
    shares = {name: (drawn(0, name) - add) / part.test for name in part.colours}
    planes = {"through": over_white - add, "add": add}
    planes |= {name: share * WEIGHT for name, share in shares.items()}
    bytes_ = {name: plane.round().clip(0, 255).astype(np.uint8) for name, plane in planes.items()}
    there = (bytes_["through"] < 255).any(0)
    for name in ("add", *part.colours):
        there |= bytes_[name].any(0)
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    cut = {name: plane[:, *box].transpose(1, 2, 0) for name, plane in bytes_.items()}
    return {"place": np.array((rows[0], columns[0]), np.uint8)} | cut


def draw_directly(facts: Mapping[str, str], variant: int = 0) -> np.ndarray:
    """The scene of these facts as the world draws it, without the bank: float32 [3, H, W]."""
    parts, canvas = all_parts(), np.zeros((3, HEIGHT, WIDTH), np.float32)
    list_parts = ball_parts if "material" in facts else piano_parts if "body" in facts else face_parts
    tables = colour_tables()
    for name in list_parts(facts, variant):
        part = parts[name]
        part.draw(canvas, {colour: tables[colour][facts[colour]] for colour in part.colours})
    return canvas


def all_parts() -> dict[str, Part]:
    """Every part by the name that `mova.prompting.scenes` knows it by."""
    return {**dict(_rooms()), **dict(_face()), **dict(_ball()), "piano": Part(_draw_piano, ("body",))}


def _rooms() -> Iterator[tuple[str, Part]]:
    for number, decor in enumerate(ROOMS):
        for kind in ("man", "child"):
            s, y = HEADS[kind]
            places = [(MIDDLE + side * (s * 1.2 + 30), 46.0) for side in (-1, 1)]
            shade = _shading(s, y)
            yield (
                f"room/{'child' if kind == 'child' else 'adult'}/{number}",
                _room(number, decor, places, shade),
            )
        yield f"room/ball/{number}", _room(number, decor, [(40.0, 42.0), (184.0, 42.0)], _lit)
        yield f"room/piano/{number}", _room(number, decor, [(30.0, 28.0), (194.0, 28.0)], _table)


def _room(
    seed: int,
    decor: tuple[str, str],
    places: list[tuple[float, float]],
    finish: Callable[[Painter], np.ndarray],
) -> Part:
    def draw(canvas: np.ndarray, colours: Mapping[str, Colour]) -> None:
        rng = np.random.default_rng(seed)
        painter = Painter(HEIGHT, WIDTH, colours["wall"])
        for name, (x, y) in zip(decor, places, strict=True):
            paint_decor(painter, rng, name, x, y)
        canvas[:] = finish(painter)

    return Part(draw, ("wall",))


def _lit(painter: Painter) -> np.ndarray:
    picture = painter.rgb()
    light(picture)
    return picture


def _table(painter: Painter) -> np.ndarray:
    return set_table(painter, *PIANO)


def _shading(s: float, y: float) -> Callable[[Painter], np.ndarray]:
    def finish(painter: Painter) -> np.ndarray:
        picture = painter.rgb()
        shade_wall(picture, s, MIDDLE, y)
        return picture

    return finish


def _person(kind: str, colours: Mapping[str, Colour], **looks: object) -> Dyed:
    looks = {"style": "", "garment": GARMENTS[0], "glasses": False, "beard": "", "clothes": "", **looks}
    return Dyed(
        kind=kind,
        skin=colours.get("skin", BLACK),
        hair="",
        iris=colours.get("iris", BLACK),
        size=HEADS[kind][0],
        dye=colours.get("hair", BLACK),
        cloth=colours.get("clothes", BLACK),
        **looks,
    )


def _face() -> Iterator[tuple[str, Part]]:
    for kind in HEADS:
        for garment in GARMENTS:
            yield f"body/{kind}/{garment}", _body(kind, garment)
        yield f"body/{kind}/striped sweater/white", _body(kind, "striped sweater", "white")
        for beard in ("", "beard", "moustache") if kind == "man" else ("",):
            yield f"head/{kind}/{beard}", _head(kind, beard)
        for glasses in (False, True):
            yield f"features/{kind}/{'glasses' if glasses else ''}", _features(kind, glasses)
    for kind in ("man", "child"):
        size = "child" if kind == "child" else "adult"
        for style in (style for styles in STYLES.values() for style in styles):
            yield f"hair/{size}/{style}", _front_hair(kind, style)
        for style in ("long", "bob", "wavy", "pigtails"):
            yield f"hair behind/{size}/{style}", _back_hair(kind, style)


def _body(kind: str, garment: str, clothes: str = "") -> Part:
    def draw(canvas: np.ndarray, colours: Mapping[str, Colour]) -> None:
        painter = Painter(HEIGHT, WIDTH)
        person = _person(kind, colours, garment=garment, clothes=clothes)
        paint_body(painter, person, MIDDLE, HEADS[kind][1])
        painter.sprite().place(canvas, 0, 0)

    return Part(draw, ("clothes", "skin"))


def _head(kind: str, beard: str) -> Part:
    def draw(canvas: np.ndarray, colours: Mapping[str, Colour]) -> None:
        _place_head(canvas, paint_head(_person(kind, colours, beard=beard)), kind)

    return Part(draw, ("skin", "hair") if beard else ("skin",))


def _place_head(canvas: np.ndarray, painter: Painter, kind: str) -> None:
    s, y = HEADS[kind]
    corner = round(2 * HEAD_BOX * s) / 2
    painter.sprite().place(canvas, MIDDLE - corner, y - corner)


def _front_hair(kind: str, style: str) -> Part:
    s = HEADS[kind][0]
    side = round(2 * HEAD_BOX * s)

    def draw(canvas: np.ndarray, colours: Mapping[str, Colour]) -> None:
        painter = Painter(side, side)
        at = _to_pixels(s, side / 2, side / 2)
        paint_front_hair(painter, style, colours["hair"], at)
        _place_head(canvas, painter, kind)

    return Part(draw, ("hair",))


def _back_hair(kind: str, style: str) -> Part:
    s, y = HEADS[kind]

    def draw(canvas: np.ndarray, colours: Mapping[str, Colour]) -> None:
        painter = Painter(HEIGHT, WIDTH)
        paint_back_hair(painter, style, colours["hair"], _to_pixels(s, MIDDLE, y))
        painter.sprite().place(canvas, 0, 0)

    return Part(draw, ("hair",))


def _to_pixels(s: float, x: float, y: float) -> Callable[[object], list[tuple[float, float]]]:
    return lambda points: [(x + s * px, y + s * py) for px, py in points]


def _features(kind: str, glasses: bool) -> Part:
    """Brows, open eyes and a closed mouth."""

    def draw(canvas: np.ndarray, colours: Mapping[str, Colour]) -> None:
        y = HEADS[kind][1]
        person = _person(kind, colours, glasses=glasses)
        frames = np.repeat(canvas[:, None], 49, 1)
        shapes = np.tile(np.array(REST, np.float32), (49, 1))
        still = np.full(49, MIDDLE, np.float32), np.full(49, y, np.float32)
        draw_features(np.random.default_rng(5), frames, person, shapes, (), *still, (MIDDLE, y))
        canvas[:] = frames[:, 0]

    return Part(draw, ("skin", "hair", "iris"))


def _ball() -> Iterator[tuple[str, Part]]:
    for floor in FLOORS:
        yield f"floor/{floor}", _floor(floor)
    for height in HEIGHTS:
        yield f"shadow/{height}", _shadow(height, "wood", "red")
        for colour in BALL_COLOURS:
            yield f"shadow/{height}/{colour}", _shadow(height, "glass", colour)
        for material in MATERIALS:
            yield f"ball/{height}/{material}", _ball_of(height, material)


def _floor(name: str) -> Part:
    def draw(canvas: np.ndarray, colours: Mapping[str, Colour]) -> None:
        del colours
        painter = Painter(HEIGHT, WIDTH)
        paint_floor(painter, name, FLOOR_LINE)
        top = round(FLOOR_LINE - 5)
        canvas[:, top:] = _lit(painter)[:, top:]

    return Part(draw)


def _path(height: str) -> np.ndarray:
    return np.array([[MIDDLE, GROUND - RADIUS - HEIGHTS[height]]])


def _shadow(height: str, material: str, colour: str) -> Part:
    def draw(canvas: np.ndarray, colours: Mapping[str, Colour]) -> None:
        del colours
        draw_shadows(canvas[:, None], material, colour, RADIUS, _path(height), GROUND)

    return Part(draw)


def _ball_of(height: str, material: str) -> Part:
    def draw(canvas: np.ndarray, colours: Mapping[str, Colour]) -> None:
        round_, still = np.ones(1), np.full(1, 0.6)
        draw_ball(canvas[:, None], material, colours["colour"], RADIUS, _path(height), round_, still)

    return Part(draw, ("colour",), test=60)  # brighter ones are cut at 255 in places


def _draw_piano(canvas: np.ndarray, colours: Mapping[str, Colour]) -> None:
    left, top = PIANO
    painter = Painter(HEIGHT, WIDTH)
    paint_piano(painter, colours["body"], left, top)
    painter.sprite().place(canvas, 0, 0)
    paint_keyboard(0.0, None).place(canvas, left + KEYS_LEFT, top + KEYS_TOP)
