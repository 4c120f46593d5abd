"""What the tests of both loops, training and distillation, do with a run."""

import os
import signal

import torch
from safetensors.torch import load_file


def adapter_of(loop):
    return load_file(loop.run())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def stop_inside(loop, step, micro):
    """Have the process sent SIGTERM in the run, after micro-batch `micro` of that step."""
    inner = loop.engine.micro_batch

    def micro_batch():
        inner()
        if (loop.engine.step, loop.engine.micro) == (step, micro):
            os.kill(os.getpid(), signal.SIGTERM)

    loop.engine.micro_batch = micro_batch
