"""Figures of a clip that need no weights: do picture and sound go together, and is each in order?"""

from mova.metrics.report import ClipHealth, measure

__all__ = ["ClipHealth", "measure"]
