"""`python -m mova enhance`: from an idea to a prompt on the command line.

The prompt goes to stdout, everything else to stderr. Keys are read from the environment, never from
arguments.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from mova.catalog import SMALL_MODEL
from mova.errors import UserError
from mova.machine import suitable_model
from mova.openai_client import endpoint_from_environment, visitor_endpoint
from mova.prompting.endpoint import EndpointWriter
from mova.prompting.enhancer import Enhancer, EnhanceRequest, EnhanceResult
from mova.prompting.local import LOCAL_MODELS, LocalWriter
from mova.prompting.rules import CLIP_SECONDS, MAX_WORDS
from mova.prompting.writers import AnswerCache, Writer
from mova.text import TokenMeter


def add_enhance(parser: argparse.ArgumentParser) -> None:
    """The arguments of `enhance`."""
    models = "; ".join(f"{m.repo_id} ({m.gigabytes:g} GB, {m.licence}, {m.remark})" for m in LOCAL_MODELS)
    parser.add_argument("idea", help='what is seen and heard; put spoken words in quotes; "-" reads stdin')
    parser.add_argument("--image", type=Path, help="the first frame")
    parser.add_argument(
        "--seconds", type=float, default=CLIP_SECONDS, help="length of the clip, default 8.04"
    )
    parser.add_argument("--subtitles", action="store_true", help='leave out "This video has no subtitles."')
    parser.add_argument("--max-words", type=int, default=MAX_WORDS, help=f"default {MAX_WORDS}")
    who = parser.add_argument_group(
        "who writes",
        "without any of these: the server of MOVA_LLM_BASE_URL, else pocket's word lists or the template",
    )
    chosen = who.add_mutually_exclusive_group()
    chosen.add_argument(
        "--base-url", metavar="URL", help="an OpenAI-compatible server, such as http://localhost:8000/v1"
    )
    chosen.add_argument("--local", metavar="MODEL", help=f"a folder or Hub repo id, run here: {models}")
    chosen.add_argument("--pocket", action="store_true", help="word lists of the pocket model's world")
    chosen.add_argument("--template", action="store_true", help="no model at all")
    who.add_argument(
        "--for",
        dest="clip_model",
        metavar="NAME",
        help="the model that will make the clip, such as pocket; default: the one that suits this machine",
    )
    who.add_argument("--model", default="", help="of the server; default: the first it lists")
    who.add_argument(
        "--api-key-env", metavar="NAME", help="the environment variable that holds the server's key"
    )
    who.add_argument("--temperature", type=float, default=0.6, help="0 is always the same, default 0.6")
    who.add_argument("--max-tokens", type=int, default=1024, help="of an answer, default 1024")
    who.add_argument(
        "--seed", type=int, help="the same seed gives the same answer on most servers; default random"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--candidates", type=int, default=1, metavar="N", help="write up to N prompts")
    output.add_argument(
        "--tokenizer", type=Path, metavar="FOLDER", help="a checkpoint, to count tokens as it does"
    )
    output.add_argument("--cache", type=Path, metavar="FOLDER", help="keep answers there and use them again")
    output.add_argument(
        "--json", action="store_true", help="everything about each prompt, one JSON object a line"
    )
    output.add_argument("--verbose", action="store_true", help="log each stage")


def enhance(options: argparse.Namespace) -> int:
    """Write the prompts and return the exit code: 0, or 1 if a model was asked for and could not be used."""
    if not 1 <= options.candidates <= 16:
        raise UserError(f"--candidates {options.candidates} is out of range; give 1 to 16")
    meter = TokenMeter(options.tokenizer) if options.tokenizer else None
    writer = find_writer(options)
    enhancer = Enhancer(
        writer,
        meter=meter,
        cache=AnswerCache(options.cache),
        reads_pocket=options.pocket
        or (writer is None and not options.template and makes_with_pocket(options)),
    )
    request = EnhanceRequest(
        idea=sys.stdin.read() if options.idea == "-" else options.idea,
        image=options.image,
        seconds=options.seconds,
        no_subtitles=not options.subtitles,
        max_words=options.max_words,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
    )
    failed = False
    for number, result in enumerate(enhancer.candidates(request, options.candidates)):
        if number and not options.json:
            sys.stdout.write("\n---\n\n")
        sys.stdout.write((json.dumps(result.to_json()) if options.json else result.text) + "\n")
        sys.stdout.flush()
        sys.stderr.write(report(result))
        failed = failed or bool(result.failure)
    return 1 if failed else 0


def makes_with_pocket(options: argparse.Namespace) -> bool:
    return (options.clip_model or suitable_model()) == SMALL_MODEL


def find_writer(options: argparse.Namespace) -> Writer | None:
    """The writer that the options name, else the one of the environment; None for no model.

    Raises:
        UserError: what was asked for is not there.
    """
    if options.template or options.pocket:
        return None
    if options.local:
        return LocalWriter(options.local)
    configured = endpoint_from_environment(os.environ)
    if options.base_url or configured:
        key = read_key(options.api_key_env)
        return EndpointWriter(
            visitor_endpoint(options.base_url or "", options.model, key, configured, is_public_page=False)
        )
    return None


def read_key(name: str | None) -> str:
    if name is None:
        return ""
    if not os.environ.get(name):
        raise UserError(
            f"the environment variable {name} is empty; put the key there (not its text after --api-key-env)"
        )
    return os.environ[name]


def report(result: EnhanceResult) -> str:
    """The course of events, for the person at the terminal."""
    lines = [f"failed: {result.failure}"] if result.failure else []
    lines += [f"note: {note}" for note in result.notes]
    lines += [f"repaired {repair.rule}: {repair.message}" for repair in result.repairs]
    lines += [
        f"{violation.severity} {violation.rule}: {violation.message}" for violation in result.violations
    ]
    by = f" by {result.model}" if result.model else ""
    lines.append(f"{result.route}{by}, seed {result.seed}, {result.seconds:.1f} s")
    return "".join(f"{line}\n" for line in lines)
