"""The shift of a noise schedule, for tensors, arrays and numbers alike. Loads no torch."""

from typing import TypeVar

Sigma = TypeVar("Sigma")


def shifted(sigma: Sigma, shift: float) -> Sigma:
    """`sigma`, uniform from 0 to 1, moved towards 1, the noise, by `shift` over 1."""
    return shift * sigma / (1 + (shift - 1) * sigma)
