"""Measure what a visitor of pocket gets: python -m benchmarks.typed_ideas [--clips] [--white-frame]

Forty ideas of its world as people type them, and twenty outside it: what is said of each, the first frame
that is drawn and, with --clips, the clip that is made and how the detectors judge it. An idea outside may
not be taken for one that can be had whole. Speech is judged with the word banks of `python -m recipes.pocket
speech`.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mova.catalog import POCKET, TURBO, find_model
from mova.media.images import white_frame
from mova.prompting.first_frame import FirstFrame, first_frame_for
from mova.prompting.pocket import PocketReading, read_idea
from mova.prompting.scenes import layout_of
from recipes.pocket.evaluation.detect import (
    detect_ball,
    detect_hits,
    detect_keys,
    detect_material,
    detect_notes,
)
from recipes.pocket.evaluation.faces import Place, find_face
from recipes.pocket.evaluation.generate import Request, Settings, generate, load_pipeline
from recipes.pocket.evaluation.prompt_facts import OUTSIDE, Idea, read_ideas
from recipes.pocket.evaluation.recognise import recogniser
from recipes.pocket.world.ball import BALL_COLOURS
from recipes.pocket.world.clip import FRAME_RATE, HEIGHT, WIDTH
from recipes.pocket.world.piano import KEYS
from recipes.pocket.world.speech import DEFAULT_FOLDER

IDEAS = Path(__file__).with_name("typed_ideas.json")
FIRST_SEED = 9_000_000
TURBO_FILE = find_model("pocket").preset(TURBO).adapter
TOGETHER = 2 / FRAME_RATE  # seconds between a hit that is seen and its sound
SAID = {"whole": "completed", "partly": "in part", "not": "refused"}


@dataclass(frozen=True)
class Row:
    """One idea: what is said of it, what is drawn, and what the detectors find in its clip."""

    idea: Idea
    reading: PocketReading
    frame: FirstFrame
    found: dict[str, bool]  # what is asked or has to be, and whether it is so

    def to_json(self) -> dict[str, object]:
        reading = self.reading
        return {
            "idea": self.idea.text,
            "said": SAID[reading.belongs],
            "kept": reading.kept,
            "not_kept": reading.not_kept,
            "drawn": self.frame.said,
            "differs": self.frame.differs,
            "found": self.found,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.typed_ideas", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--clips", action="store_true", help="also make and judge a clip of each")
    parser.add_argument("--white-frame", action="store_true", help="make them from a white frame instead")
    parser.add_argument("--family", choices=("face", "ball", "piano"), help="these alone")
    parser.add_argument("--steps", type=int, help="without the turbo adapter; default: the turbo preset")
    parser.add_argument("--model", default=str(POCKET))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--speech", type=Path, default=DEFAULT_FOLDER, help="folder of the word banks")
    parser.add_argument("--frames", type=Path, help="folder for the middle frame of each clip, as PNG")
    parser.add_argument("--json", type=Path, help="file for every idea and what came of it")
    options = parser.parse_args()
    sets = read_ideas(IDEAS)
    ideas = [each for each in sets["world"] if options.family in (None, each.family)]
    ideas += [] if options.family else sets["outside"]
    began = time.monotonic()
    rows = list(judged(ideas, options) if options.clips else map(read, ideas))
    sys.stdout.write(table(rows))
    if options.clips:
        steps = settings_of(options).steps
        sys.stdout.write(f"\n{steps} steps, {time.monotonic() - began:.0f} s\n")
    if options.json:
        text = json.dumps([row.to_json() for row in rows], ensure_ascii=False, indent=1)
        options.json.write_text(text, encoding="utf-8")


def settings_of(options: argparse.Namespace) -> Settings:
    """The preset that the page takes, or the standard one with another number of steps."""
    return Settings.of_adapter(TURBO_FILE) if options.steps is None else Settings(options.steps)


def read(idea: Idea) -> Row:
    """What is said and drawn before a clip is made."""
    return Row(idea, read_idea(idea.text), first_frame_for(idea.text, "pocket"), {})


def judged(ideas: list[Idea], options: argparse.Namespace) -> Iterator[Row]:
    """The ideas with a clip of each that is not refused."""
    pipeline = load_pipeline(options.model, options.device)
    for number, row in enumerate(map(read, ideas)):
        if not row.reading.prompt:
            yield row
            continue
        image = white_frame(HEIGHT, WIDTH) if options.white_frame else np.asarray(row.frame.image)
        request = Request(FIRST_SEED + number, row.reading.prompt, image)
        ((frames, waveform),) = generate(pipeline, [request], settings_of(options))
        if options.frames:
            options.frames.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frames[len(frames) // 2]).save(options.frames / f"{number:02}.png")
        found = judge(row, frames, waveform, options.speech, is_drawn=not options.white_frame)
        sys.stderr.write(f"{row.idea.text}: {found}\n")
        yield Row(row.idea, row.reading, row.frame, found)


def judge(
    row: Row, frames: np.ndarray, waveform: np.ndarray, speech: Path, is_drawn: bool
) -> dict[str, bool]:
    """What has to be, and what the idea asks for, by the detectors of the clip."""
    family, scene, facts = row.reading.family, row.reading.scene, row.idea.facts
    layout = layout_of(family, scene)
    if family == "face":
        place = Place(scene["person"], layout["half_head"], layout["x"], layout["y"]) if is_drawn else None
        seen = find_face(frames, place)
        sys.stderr.write(f"eyes and mouth in {seen.whole_share:.0%} of the frames; ")
        found = {"face whole": seen.is_whole}
        if "words" in facts:
            heard = [word.text for word in recogniser(speech).recognise(waveform)]
            found["words"] = heard == facts["words"]
        return found
    if family == "piano":
        heard = [KEYS[key] for key in detect_notes(waveform).keys]
        lit = [KEYS[key] for key in detect_keys(frames, layout).keys]
        return {"notes heard": heard == facts["notes"], "keys lit": lit == facts["notes"]}
    seen, hits = detect_ball(frames, layout), detect_hits(waveform)
    shown = (seen.impact_frames + 0.5) / FRAME_RATE
    found = {
        "hits heard": bool(len(shown)) and all(np.abs(hits - t).min(initial=9) <= TOGETHER for t in shown)
    }
    if facts.get("colour") in BALL_COLOURS:
        found["colour"] = seen.colour == facts["colour"]
    if "material" in facts:
        found["material"] = detect_material(waveform) == facts["material"]
    if "bounces" in facts:
        found["bounces"] = len(shown) == facts["bounces"]
    return found


def table(rows: list[Row]) -> str:
    """A Markdown table by family: what is said, what is drawn exactly, and what the detectors find."""
    lines = [
        "| ideas | completed | in part | refused | drawn as asked | found |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for family in ("face", "ball", "piano", OUTSIDE):
        mine = [row for row in rows if row.idea.family == family]
        if not mine:
            continue
        said = [sum(SAID[row.reading.belongs] == word for row in mine) for word in SAID.values()]
        exact = sum(row.frame.image is not None and not row.frame.differs for row in mine)
        names = dict.fromkeys(name for row in mine for name in row.found)
        judged = {name: [row.found[name] for row in mine if name in row.found] for name in names}
        found = ", ".join(f"{name} {sum(each)}/{len(each)}" for name, each in judged.items())
        cells = [f"{len(mine)} {family}", *map(str, said), str(exact), found]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
