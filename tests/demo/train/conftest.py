"""Fixtures of the trainer's tests, which the train tab uses too."""

from tests.lora_trainer.conftest import *  # noqa: F403
