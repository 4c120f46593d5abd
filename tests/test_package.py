"""The names of `mova` itself."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import mova


@pytest.mark.parametrize("name", mova.__all__)
def test_every_name_is_that_of_its_module_and_is_listed(name):
    found = getattr(mova, name)
    assert found is getattr(import_module(found.__module__), name)
    assert found.__module__.startswith("mova.")
    assert name in dir(mova)


def test_a_name_that_is_not_there_is_refused_like_a_modules():
    assert not hasattr(mova, "Pipeline")
    with pytest.raises(ImportError, match="cannot import name 'Pipeline'"):
        from mova import Pipeline  # noqa: F401


def test_light_names_load_no_torch_and_the_pipeline_does():
    code = (
        "import sys; from mova import GenerationRequest, Machine, RemoteBackend, UserError, Enhancer; "
        "from mova.backends.settings import RemoteServer; RemoteBackend('360p', RemoteServer('http://gpu')); "
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules); "
        "from mova import MOVAPipeline, Placement, place; "
        "assert 'torch' in sys.modules"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
