"""MOVA toolkit: video and synchronised sound from a first frame and a text.

The names in `__all__` are imported when they are first asked for, so that `import mova` stays light.
"""

import logging
from importlib import import_module

__version__ = "0.1.0"

_MODULES = {
    "Adapter": "mova.adapters.files",
    "BackendError": "mova.errors",
    "Cancelled": "mova.errors",
    "EnhanceRequest": "mova.prompting.enhancer",
    "Enhancer": "mova.prompting.enhancer",
    "GenerationRequest": "mova.request",
    "GenerationResult": "mova.request",
    "LocalBackend": "mova.backends.local",
    "MOVAPipeline": "mova.pipeline",
    "Machine": "mova.machine",
    "Placement": "mova.placement",
    "RemoteBackend": "mova.backends.remote",
    "RemoteServer": "mova.backends.settings",
    "UserError": "mova.errors",
    "place": "mova.placement",
    "read_adapter": "mova.adapters.sources",
}
__all__ = list(_MODULES)

# Where it is installed, peft imports it, and it warns on some processors of a kernel that is not needed here.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
