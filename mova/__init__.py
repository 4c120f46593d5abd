"""MOVA toolkit: video and synchronised sound from a first frame and a text."""

__version__ = "0.1.0"
