"""The page's settings, read from the environment in one place. No torch, no gradio."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mova import catalog
from mova.backends.settings import RemoteServer, remote_from_environment
from mova.errors import UserError
from mova.layout import MAX_GPUS
from mova.machine import GIB, NEEDS, Machine, lacks_for_released
from mova.openai_client import Endpoint, endpoint_from_environment
from mova.prompting.first_frame import LocalPainter, Painter, painter_from_environment
from mova.shapes import check_size, parse_size

TRUE, FALSE = ("1", "t", "true", "yes", "on"), ("", "0", "f", "false", "no", "off")
EXAMPLES = Path(__file__).parents[1] / "assets" / "examples"
LOCAL_HOURS, PUBLIC_HOURS = 24 * 30, 24
# Visitors reach a Space through the platform's own proxies, which lie in these networks.
SPACE_PROXIES = "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"


@dataclass(frozen=True)
class Settings:
    """The page's settings; `VARIABLES` has the environment's name and the meaning of each.

    An empty `model` is chosen for the machine. `size` and `seconds` describe a checkpoint given by path.
    `remote` makes the clips elsewhere if set; `llm` writes prompts and captions if set, and
    `painter` paints first frames.
    """

    model: str = ""
    size: tuple[int, int] | None = None
    seconds: float = 0.0
    remote: RemoteServer | None = None
    llm: Endpoint | None = None
    painter: Painter | None = None
    device: str = ""
    dtype: str = ""
    offload: str = ""
    fp8: bool = False
    gpus: int = 0
    outputs: Path = Path("outputs")
    examples: Path = EXAMPLES
    keep_hours: float = 0.0
    keep_clips: int = 50
    queue: int = 8
    max_seconds: float = 20.0
    max_steps: int = 100
    max_upload_mb: int = 200
    abandon_seconds: float = 120.0
    is_public: bool = False
    train_tab: bool = True
    zerogpu_size: str = "xlarge"
    zerogpu_speed: float = 1.0
    jobs_code: str = ""
    jobs_image: str = ""
    jobs_model: str = ""
    is_zero_gpu: bool = False
    space_id: str = ""
    space_owner: str = ""
    oauth_client_id: str = ""
    oauth_scopes: str = ""
    proxies: str = ""
    hub_token: str = field(default="", repr=False)

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Settings":
        """The settings of `environment`. Raises UserError for a value that makes no sense."""
        given: dict[str, object] = {
            "remote": remote_from_environment(environment),
            "llm": endpoint_from_environment(environment),
            "painter": painter_from_environment(environment),
        }
        for variable in VARIABLES:
            text = environment.get(variable.name, "").strip()
            if text:
                given[variable.field] = variable.parse(variable.name, text)
        if given.get("space_id"):
            given["proxies"] = SPACE_PROXIES
            given.setdefault("space_owner", str(given["space_id"]).partition("/")[0])
        if given.get("space_id") or given.get("is_zero_gpu"):
            given["is_public"] = True
        if given.get("is_zero_gpu") and isinstance(given["painter"], LocalPainter):
            raise UserError("ZeroGPU cannot paint with MOVA_IMAGE_MODEL alone; set MOVA_IMAGE_BASE_URL too")
        given.setdefault("keep_hours", PUBLIC_HOURS if given.get("is_public") else LOCAL_HOURS)
        return cls(**given)

    def gpus_for(self, source: str, found: int) -> int:
        """The GPUs, of those `found`, that make a clip with the model from `source` together."""
        is_small = source == catalog.find_model(catalog.SMALL_MODEL).source
        if is_small or self.is_zero_gpu or self.device not in ("", "cuda"):
            return 1
        return self.gpus or max(found, 1)

    @property
    def can_sign_in(self) -> bool:
        """Sign-in with Hugging Face is configured for this Space."""
        return bool(self.space_id and self.oauth_client_id)


@dataclass(frozen=True)
class Variable:
    """One environment variable: the field it sets, how it is read, and a line for people."""

    name: str
    field: str
    parse: Callable[[str, str], object]
    meaning: str


def _text(name: str, text: str) -> str:
    del name
    return text


def _flag(name: str, text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise UserError(f"{name}={text!r} is neither on nor off; set 1 or 0")
    return text.lower() in TRUE


def _folder(name: str, text: str) -> Path:
    del name
    return Path(text).expanduser()


def _size(name: str, text: str) -> tuple[int, int]:
    try:
        return parse_size(text)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _number(low: float, high: float, whole: bool = False) -> Callable[[str, str], float]:
    def parse(name: str, text: str) -> float:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            raise UserError(f"{name}={text!r} is not a {'whole ' if whole else ''}number") from None
        if not low <= value <= high:
            raise UserError(f"{name}={text} must be from {low:g} to {high:g}")
        return value

    return parse


def _one_of(*choices: str) -> Callable[[str, str], str]:
    def parse(name: str, text: str) -> str:
        if text.lower() not in choices:
            raise UserError(f"{name}={text!r} is not known; set one of {', '.join(choices)}")
        return text.lower()

    return parse


# MOVA_BACKEND and MOVA_REMOTE_* are read by mova.backends.settings, MOVA_LLM_* by mova.openai_client,
# MOVA_IMAGE_* by mova.prompting.first_frame.
VARIABLES = (
    Variable("MOVA_MODEL", "model", _text, "360p, 720p, a folder or a repo id; else by the machine"),
    Variable("MOVA_SIZE", "size", _size, "WIDTHxHEIGHT that a checkpoint given by path was trained for"),
    Variable("MOVA_SECONDS", "seconds", _number(0.1, 40), "length that such a checkpoint was trained for"),
    Variable("MOVA_DEVICE", "device", _text, "cuda, cuda:1, mps, cpu; default the best there is"),
    Variable("MOVA_DTYPE", "dtype", _one_of("bfloat16", "float32"), "default bfloat16 where it is fast"),
    Variable("MOVA_OFFLOAD", "offload", _one_of("none", "component", "layers"), "default what fits"),
    Variable("MOVA_FP8", "fp8", _flag, "1: towers in 8 bits, half the memory, not exact"),
    Variable("MOVA_GPUS", "gpus", _number(1, MAX_GPUS, whole=True), "that make a clip together; default all"),
    Variable("MOVA_OUTPUTS", "outputs", _folder, "folder of the clips; default outputs"),
    Variable("MOVA_EXAMPLES", "examples", _folder, "folder with examples.json; default assets/examples"),
    Variable("MOVA_KEEP_HOURS", "keep_hours", _number(0.01, 1e6), "clips are deleted then; 720, public 24"),
    Variable("MOVA_KEEP_CLIPS", "keep_clips", _number(1, 1000, whole=True), "clips of one browser; 50"),
    Variable("MOVA_QUEUE", "queue", _number(0, 1000, whole=True), "clips that may wait their turn; 8"),
    Variable("MOVA_MAX_SECONDS", "max_seconds", _number(0.1, 40), "longest clip that may be asked for; 20"),
    Variable("MOVA_MAX_STEPS", "max_steps", _number(1, 1000, whole=True), "most denoising steps; 100"),
    Variable("MOVA_MAX_UPLOAD_MB", "max_upload_mb", _number(1, 4096, whole=True), "largest upload; 200"),
    Variable("MOVA_ABANDON_SECONDS", "abandon_seconds", _number(5, 1e6), "stops a run nobody watches; 120"),
    Variable("MOVA_PUBLIC", "is_public", _flag, "1: strangers visit this page; always so on a Space"),
    Variable("MOVA_TRAIN_TAB", "train_tab", _flag, "0: hide the Train tab"),
    Variable("MOVA_ZEROGPU_SIZE", "zerogpu_size", _one_of("large", "xlarge"), "large needs MOVA_FP8=1"),
    Variable(
        "MOVA_ZEROGPU_SPEED", "zerogpu_speed", _number(0.05, 20), "speed of the card relative to the estimate"
    ),
    Variable("MOVA_JOBS_CODE", "jobs_code", _text, "Space or git address that jobs train with; this Space"),
    Variable("MOVA_JOBS_IMAGE", "jobs_image", _text, "image with uv and Python that jobs start in"),
    Variable("MOVA_JOBS_MODEL", "jobs_model", _text, "model of jobs, where MOVA_MODEL is a folder"),
    Variable("SPACES_ZERO_GPU", "is_zero_gpu", _flag, "set by the platform"),
    Variable("SPACE_ID", "space_id", _text, "set by the platform"),
    Variable("SPACE_AUTHOR_NAME", "space_owner", _text, "set by the platform"),
    Variable("OAUTH_CLIENT_ID", "oauth_client_id", _text, "set by the platform"),
    Variable("OAUTH_SCOPES", "oauth_scopes", _text, "set by the platform"),
    Variable("FORWARDED_ALLOW_IPS", "proxies", _text, "addresses of your reverse proxies; default none"),
    Variable("HF_TOKEN", "hub_token", _text, "token that downloads the model"),
)


def describe_model(name: str, settings: Settings) -> catalog.ModelSpec:
    """The catalogue's model of that name, or one given by path or repo id with the size in the settings."""
    model = catalog.find_model(name)
    if settings.remote:
        model = model.on_a_server
    if name in catalog.MODELS:
        return model
    height, width = settings.size or (model.height, model.width)
    check_size(height, width)
    seconds = settings.seconds or model.num_frames / model.frame_rate
    frames = catalog.frames_for_seconds(seconds, model.frame_rate)
    return replace(model, name=name, height=height, width=width, num_frames=frames)


POCKET_HINT = "This small model knows talking cartoon faces, bouncing balls and toy pianos."
POCKET_NOTE = (
    "Pocket runs on any computer and makes two seconds at 224×128 pixels. Some words are wrong (one in "
    "fifteen), and balls smear as they fall."
)
HINT = 'Say what it sounds like, too: "a kettle whistles", "her calm voice".'
# Button and idea of each chip, ideas that the model can make.
POCKET_IDEAS = (
    ("Hello", 'A woman in a green sweater smiles and says "hello."'),
    ("Ball", "A blue metal ball bounces three times."),
    ("C E G", "A red toy piano plays C E G."),
)
OTHER_IDEAS = (
    (
        "Good morning",
        'A woman at a kitchen table looks up, smiles and says "Good morning." A kettle whistles.',
    ),
    ("Rain", "Heavy rain runs down a window at night. It drums on the glass, and thunder rolls far away."),
    ("Drummer", "A drummer plays a fast solo in a small club. The snare cracks and the cymbals ring."),
)
POCKET_PROMPTS = (
    'A child in a red shirt looks at the camera and says "banana, moon."',
    "purple wooden ball bounces twice",
)
OTHER_PROMPTS = (
    'A woman at a kitchen table looks up and smiles. She says, "Good morning." '
    "The audio shows her calm voice and a kettle.",
    'a baker lifts the bread and says "still warm"',
)


def choose_model(settings: Settings) -> tuple[str, str]:
    """The name of the model to start with, and the reason in a sentence for the page."""
    if settings.remote:
        return settings.model or "360p", f"Clips are made by the engine at {settings.remote.shown}."
    if settings.is_zero_gpu:
        return settings.model or "360p", "Runs on ZeroGPU: a shared GPU, for which you spend daily quota."
    machine = Machine.installed()
    if settings.device not in ("", "cuda"):
        machine = replace(machine, device="cpu")
    if machine.is_gpu:
        where = f"{machine.name} ({machine.vram / GIB:.0f} GiB)"
    elif settings.space_id:
        where = "the Space's CPU"
    else:
        where = f"this computer's processor ({machine.cores} cores)"
    if settings.model:
        return settings.model, f"Runs on {where}."
    lacks = lacks_for_released(machine)
    if not lacks:
        return catalog.DEFAULT_MODEL, f"MOVA-360p on {where}."
    return catalog.SMALL_MODEL, f"Pocket runs on {where}. {NEEDS}; here {lacks}."


def model_note(model: str) -> str:
    """Limits that a visitor should know before the first prompt; empty for a large model."""
    return POCKET_NOTE if model == catalog.SMALL_MODEL else ""


def model_hint(model: str) -> str:
    """A line under the prompt: what the model knows, or how to write for it."""
    return POCKET_HINT if model == catalog.SMALL_MODEL else HINT


def sample_ideas(model: str) -> tuple[tuple[str, str], ...]:
    """Label and idea of each chip under the prompt."""
    return POCKET_IDEAS if model == catalog.SMALL_MODEL else OTHER_IDEAS


def sample_prompts(model: str) -> tuple[str, str]:
    """A prompt and an idea that suit the model, shown in the empty fields."""
    return POCKET_PROMPTS if model == catalog.SMALL_MODEL else OTHER_PROMPTS


def offered_models(chosen: str, settings: Settings) -> list[str]:
    """Names of the models offered on the page: the chosen one, and those that run where it runs."""
    if settings.remote or settings.is_public or chosen not in catalog.MODELS:
        return [chosen]
    released = ["360p", "720p"] if chosen in ("360p", "720p") else []
    return list(dict.fromkeys([chosen, *released, catalog.SMALL_MODEL]))


def public_name(model: str) -> str:
    """The model's name as visitors may see it: of a checkpoint given by path, only its folder's name."""
    is_path = model not in catalog.MODELS and Path(model).expanduser().exists()
    return Path(model).name if is_path else model
