"""Three steps of the real run, measured, to compare with the plan of the same windows.

Only the cache is written.
"""

import statistics
import time

import psutil
import torch

from lora_trainer.config import Config
from lora_trainer.engine import Engine
from lora_trainer.latent_cache import Cache
from lora_trainer.plan.estimate import Measured, step_seconds
from lora_trainer.plan.inputs import Card, PlanInputs
from lora_trainer.plan.memory import device_memory
from mova.pipeline import MOVAPipeline
from mova.shapes import ClipShape

STEPS = 3


def probe(config: Config, card: Card, inputs: PlanInputs, cache: Cache, pipeline: MOVAPipeline) -> Measured:
    """Train three steps after one to warm up, as `train` would begin, and forget them."""
    before = psutil.Process().memory_info().rss
    engine = Engine(config, cache, pipeline)
    on_gpu = engine.device.type == "cuda"
    if on_gpu:  # what encoding took is not what training takes
        torch.cuda.reset_peak_memory_stats(engine.device)
    seconds, predicted, shapes, peak = [], [], [], 0
    for step in range(1 + STEPS):
        taken = micro_batches(engine, config)
        if on_gpu:
            torch.cuda.synchronize(engine.device)
        began = time.perf_counter()
        for _ in taken:
            engine.micro_batch()
        engine.update()
        if on_gpu:
            torch.cuda.synchronize(engine.device)
            peak = torch.cuda.max_memory_allocated(engine.device)
        else:
            peak = max(peak, psutil.Process().memory_info().rss - before)
        shapes += taken
        if step:
            seconds.append(time.perf_counter() - began)
            counts = {shape: taken.count(shape) for shape in taken}
            predicted.append(step_seconds(config, card, inputs, counts)[0])
    largest = max(shapes, key=lambda shape: shape.video_tokens)
    expected = sum(device_memory(inputs.towers, largest, config, card.dtype, card.processes).values())
    return Measured(STEPS, statistics.median(seconds), statistics.median(predicted), peak, expected)


def micro_batches(engine: Engine, config: Config) -> list[ClipShape]:
    """The shapes of the next step's windows."""
    shapes = []
    for micro in range(config.run.accumulation):
        window = engine.sampler.batch(engine.step * config.run.accumulation + micro)[0]
        size = window.height, window.width, window.num_frames, window.frame_rate
        shapes.append(engine.pipeline.clip_shape(*size))
    return shapes
