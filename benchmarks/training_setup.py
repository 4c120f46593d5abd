"""A training of the released size without a checkpoint: random towers, random cached clips, the engine.

The layers of a tower share the first one's host memory, and both video experts the same: a fiftieth of the
memory, and no minutes spent on drawing and pinning it. On the device every layer has its own. So steps and
peak memory of the device are those of a real checkpoint; host memory and start-up are not.
"""

from collections import defaultdict
from pathlib import Path

import torch
from torch import nn

from benchmarks import released_sizes
from lora_trainer.base_model import TrainingOffloader
from lora_trainer.config import Config, read_config
from lora_trainer.distributed import Workers
from lora_trainer.engine import Engine
from lora_trainer.latent_cache import Cache, write_tensors
from lora_trainer.windows import Window
from mova.adapters.strengths import TOWERS
from mova.models.bridge import Bridge
from mova.models.dit import AudioDiT, VideoDiT
from mova.offload import LayerStreamer, PackedLayer
from mova.pipeline import MOVAPipeline
from mova.scheduler import PairScheduler
from mova.shapes import ClipShape

CLASSES = dict(zip(TOWERS, (VideoDiT, VideoDiT, AudioDiT, Bridge), strict=True))
SETTINGS = {"resident": "none", "experts": "experts", "layers": "layers", "shards": "shards"}
SMALL = {"num_layers": 4, "text_dim": 32, "dim": 128, "ffn_dim": 256, "num_heads": 4}
TINY_VIDEO = released_sizes.VIDEO_DIT | SMALL
TINY_AUDIO = released_sizes.AUDIO_DIT | SMALL | {"num_layers": 3, "dim": 64, "ffn_dim": 128, "num_heads": 2}
TINY_BRIDGE = released_sizes.BRIDGE | {"visual_layers": 4, "audio_layers": 3, "head_dim": 32}
TINY_BRIDGE |= {"visual_hidden_dim": 128, "audio_hidden_dim": 64}


def configs(tiny: bool) -> dict[str, dict]:
    video, audio = (TINY_VIDEO, TINY_AUDIO) if tiny else (released_sizes.VIDEO_DIT, released_sizes.AUDIO_DIT)
    return dict(
        zip(TOWERS, (video, video, audio, TINY_BRIDGE if tiny else released_sizes.BRIDGE), strict=True)
    )


def meta_towers(sizes: dict[str, dict]) -> dict[str, nn.Module]:
    with torch.device("meta"):
        return {name: kind(**sizes[name]) for name, kind in CLASSES.items()}


def settings(setting: str, on_gpu: bool, folder: Path) -> Config:
    """The settings that a person would write for this row."""
    changes = {
        "model": "360p",
        "output": str(folder),
        "data.path": "none",
        "data.held_out": 0,
        "recipe": "released",
        "run.accumulation": 1,
        "run.device": "cuda" if on_gpu else "cpu",
        "run.dtype": "bfloat16" if on_gpu else "float32",
        "run.offload": SETTINGS[setting],
        "objective.high_share": 0.5,
        "objective.hold_steps": 1000,  # the measurement switches experts itself
        "towers.audio_dit.targets": "attention",
    }
    return read_config(None, changes | {f"towers.{name}.rank": 16 for name in TOWERS})


def cache_of(shapes: list[ClipShape], sizes: dict[str, dict], folder: Path) -> Cache:
    """One window of random latents of each shape."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(200, sizes["video_dit"]["text_dim"], generator=generator)
    write_tensors(folder / "text", {"text": text}, {})
    windows = []
    for shape in shapes:
        grid = (shape.latent_frames, shape.latent_height, shape.latent_width)
        audio = (sizes["audio_dit"]["in_dim"], shape.audio_latents)
        sizes_of = {"video_latents": (16, *grid), "condition": (20, *grid), "audio_latents": audio}
        name = f"{shape.num_frames}"
        random = {key: torch.randn(size, generator=generator) for key, size in sizes_of.items()}
        write_tensors(folder / name, random, {})
        windows.append(
            Window(
                name=name,
                clip=name,
                caption="a clip",
                num_frames=shape.num_frames,
                height=shape.height,
                width=shape.width,
                frame_rate=shape.frame_rate,
                has_sound=True,
                file=name,
                text="text",
            )
        )
    return Cache(folder, tuple(windows), {"": "text"})


def engine_of(
    setting: str, shapes: list[ClipShape], sizes: dict[str, dict], workers: Workers, folder: Path
) -> Engine:
    """The trainer's engine as for a checkpoint, in this process among `workers`."""
    config = settings(setting, workers.device.type == "cuda", folder)
    engine = Engine(config, cache_of(shapes, sizes, folder), pipeline_of(config, sizes, workers), workers)
    streamer = engine.pipeline.residency.streamer
    if streamer is not None:
        pack_once(streamer)
    return engine


def pipeline_of(config: Config, sizes: dict[str, dict], workers: Workers) -> MOVAPipeline:
    """Towers of random weights where the trainer finds them, in (pinned) host memory."""
    device = workers.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    drawn = {
        name: released_sizes.draw_repeating(CLASSES[name], sizes[name], device, dtype)
        for name in TOWERS
        if name != "video_dit_2"
    }
    drawn["video_dit_2"] = drawn["video_dit"]
    towers = {
        name: released_sizes.build_repeating(kind, sizes[name], drawn[name]) for name, kind in CLASSES.items()
    }
    pipeline = MOVAPipeline(
        **towers,
        video_vae=None,
        audio_vae=None,
        text_encoder=None,
        tokenizer=None,
        scheduler=PairScheduler(num_train_timesteps=1000, shift=5.0),
    )
    pipeline.residency = TrainingOffloader(pipeline, device, config.run.offload)
    return pipeline


def pack_once(streamer: LayerStreamer) -> None:
    """Give the layers that are alike one packed buffer, before the streamer packs each into its own."""
    buffers = defaultdict(lambda: None)

    def pack(parameters: list[nn.Parameter]) -> PackedLayer:
        kind = tuple((p.shape, p.dtype) for p in parameters)
        packed = PackedLayer(parameters, streamer.pin, buffer=buffers[kind])
        buffers[kind] = packed.buffer
        return packed

    streamer.shared = [[pack(part) for part in parts] for parts in streamer.shared_parts]
    streamer.video = {name: [pack(part) for part in parts] for name, parts in streamer.video_parts.items()}
