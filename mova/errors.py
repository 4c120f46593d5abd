"""How a run fails: the person's mistake, the machine's or a server's fault, or a stop on request."""

from numbers import Real


class UserError(ValueError):
    """Something the person asked for cannot be done as asked. The message says what to change."""


class BackendError(RuntimeError):
    """The machine or server that runs the model failed. The message says what to try."""


class Cancelled(Exception):  # noqa: N818 - a request that was honoured, not a fault
    """The run was stopped on request; nothing was written."""


def check_finite(name: str, value: float, low: float, high: float) -> None:
    """Raise UserError unless `low <= value <= high` and value is a number."""
    if not isinstance(value, Real) or isinstance(value, bool) or value != value:
        raise UserError(f"{name}={value!r} is not a number; give one from {low:g} to {high:g}")
    if not low <= value <= high:
        raise UserError(f"{name}={value} is out of range; give one from {low:g} to {high:g}")
