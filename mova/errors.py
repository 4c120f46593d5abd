"""Failures of a run: the person's mistake, a fault of machine or server, or a stop on request."""

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real


class UserError(ValueError):
    """Something the person asked for cannot be done as asked. The message says what to change.

    `field` is the field of the GenerationRequest that is wrong, or "" where it is none of them.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class BackendError(RuntimeError):
    """The machine or server that runs the model failed. The message says what to try."""


class Cancelled(Exception):  # noqa: N818 - a request that was honoured, not a fault
    """The run was stopped on request; nothing was written."""


@contextmanager
def field_errors(field: str) -> Iterator[None]:
    """Give any UserError of the block the name of the field it is about, unless it has one."""
    try:
        yield
    except UserError as error:
        error.field = error.field or field
        raise


def printable(text: str, lines: bool = False) -> str:
    """`text` of a file or a server, harmless to print: what steers a terminal is shown as \\x1b or \\u202e.

    With `lines` line breaks and tabs stay as they are.
    """
    kept = "\n\t" if lines else ""
    return "".join(
        sign if sign in kept or not steers(sign) else sign.encode("unicode_escape").decode() for sign in text
    )


def steers(sign: str) -> bool:
    """True for a character that acts instead of being shown: controls, direction overrides, surrogates."""
    kind = unicodedata.category(sign)
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and sign not in "\u200c\u200d\u00ad")


def check_finite(name: str, value: float, low: float, high: float, whole: bool = False) -> None:
    """Raise UserError unless `low <= value <= high`, and value is a number, a whole one if asked."""
    if not isinstance(value, Real) or isinstance(value, bool) or value != value:
        raise UserError(f"{name}={value!r} is not a number; give one from {low:g} to {high:g}")
    if not low <= value <= high:
        raise UserError(f"{name}={value} is out of range; give one from {low:g} to {high:g}")
    if whole and value != int(value):
        raise UserError(f"{name}={value} must be a whole number; nearest: {round(value)}")
