import sys


class BalancingError(RuntimeError):
    """A step that cannot be balanced; the message names the objective or the method."""


class NonFiniteError(BalancingError):
    """A loss or a gradient is infinite or not a number.

    Attributes:
        late: Whether it is one of the step before, as on CUDA, where steps do not wait for losses.
    """

    late: bool = False


class SolverError(RuntimeError):
    """A solver stopped without a solution; a balancer reports it as a BalancingError."""


def caller_level() -> int:
    """``stacklevel`` of a warning in the calling function, for the line outside the package."""
    package, frame, level = __name__.rpartition(".")[0], sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(package):
        frame, level = frame.f_back, level + 1
    return level
