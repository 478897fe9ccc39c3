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
