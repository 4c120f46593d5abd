"""MOVA toolkit: video and synchronised sound from a first frame and a text."""

import logging

__version__ = "0.1.0"

# Where it is installed, peft imports it, and it warns on some processors of a kernel that is not needed here.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
