"""Shared truth for the world's tests: a word bank spoken once a session."""

from pathlib import Path

import pytest

from recipes.pocket.new_concepts.puppet import PUPPET_CAST
from recipes.pocket.world.speech import WORLD, build_bank, espeak_is_installed


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the word banks."""
    if not espeak_is_installed():
        pytest.skip("espeak-ng is not installed: no words to speak")
    folder = tmp_path_factory.mktemp("speech")
    for cast in (WORLD, PUPPET_CAST):
        build_bank(folder, cast)
    return folder
