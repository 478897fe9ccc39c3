from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, TypedDict, get_type_hints

from .choices import check_value
from .registry import suggestion

#: Earlier names of options.
_RENAMED = {"every": "update_every", "ema": "weight_ema"}
_hints = functools.cache(get_type_hints)


class BalancerOptions(TypedDict, total=False):
    """The fields of :class:`Options`, for the signatures of methods."""

    at: Literal["shared", "features", "subset"]
    update_every: int
    preference: Mapping[str, float] | None
    heads: Literal["unit", "weighted"] | None
    scale: Literal["paper", "sum"]
    normalize: Literal["none", "l2", "loss", "loss+"]
    log_losses: bool
    weight_ema: float
    max_norm: float
    memory: Literal["full", "lean"] | None
    sample: int | None
    on_nonfinite: Literal["raise", "skip"]
    seed: int


@dataclass(frozen=True)
class Options:
    """The options that every balancer takes.

    Args:
        at: Where gradients are measured. ``shared``: parameters that several losses reach. ``features``: the tensors
            given to ``backward`` as ``features``, one trunk backward in all. ``subset``: the tensors given as ``subset``.
        update_every: Compute new weights at every n-th step only; the steps between cost one backward.
        preference: Priorities of the objectives, 1 where not named; only their ratios matter.
        heads: What a leaf reached by one loss receives: its own gradient (``unit``) or that times the weight
            (``weighted``). ``None``: as the method defines it.
        scale: ``paper``: the length of the update as published. ``sum``: methods whose weights sum to 1 are multiplied
            by K, so that one learning rate serves them and the plain sum.
        normalize: Balance gradients divided by their length (``l2``), their loss (``loss``) or both (``loss+``). The sum
            of the weights stays what the method gives, so the update keeps the scale of the gradients.
        log_losses: Balance the logarithms of the losses, which must be positive.
        weight_ema: Smooth the weights over steps, ``w <- weight_ema w_previous + (1 - weight_ema) w``; 0 is off.
        max_norm: Shorten the combined gradient of the shared parameters to this length, and no head's; 0 is off.
        memory: ``full``: the gradients of all objectives at the shared parameters are in memory at once. ``lean``: they are
            measured segment by segment of the graph, for about one backward more; about one gradient is in memory at a
            time. ``None``: ``lean`` where the gradients would take more than half of the free memory.
        sample: Draw this many objectives for each step, at least 2, and differentiate these alone. The others are absent from
            it, as with a loss of ``None``: their state and their heads rest. Weights that sum to about K, and gradients of
            heads, are multiplied by K / sample, so that the mean over draws is what all objectives would give where the weights
            do not depend on the others. A primary objective is in each draw. ``None``: all.
        on_nonfinite: ``raise`` on a non-finite loss, or gradient where the method measures it, or ``skip`` the step and
            count it in the report.
        seed: Seed of the balancer's own random generator.
    """

    at: Literal["shared", "features", "subset"] = "shared"
    update_every: int = 1
    preference: Mapping[str, float] | None = None
    heads: Literal["unit", "weighted"] | None = None
    scale: Literal["paper", "sum"] = "paper"
    normalize: Literal["none", "l2", "loss", "loss+"] = "none"
    log_losses: bool = False
    weight_ema: float = 0.0
    max_norm: float = 0.0
    memory: Literal["full", "lean"] | None = None
    sample: int | None = None
    on_nonfinite: Literal["raise", "skip"] = "raise"
    seed: int = 0


class Refused(NamedTuple):
    """An option that has no meaning for a kind of method.

    Attributes:
        option: Its name.
        reason: End of the message; ``{value}`` stands for what was given.
        value: The only value without meaning; ``None``: all but the default.
    """

    option: str
    reason: str
    value: str | None = None


#: Options that need gradients.
ABOUT_GRADIENTS = (
    Refused("at", "measures no gradients, so at= has no meaning"),
    Refused("heads", "weighs losses, so heads='unit' has no meaning", "unit"),
    Refused("normalize", "measures no gradients, so normalize= has no meaning"),
    Refused("max_norm", "max_norm= needs a gradient method with at='shared'"),
    Refused("memory", "measures no gradients, so memory= has no meaning"),
    Refused("sample", "measures no gradients of which sample= would save some"),
)
#: Options that need weights.
ABOUT_WEIGHTS = (
    Refused("update_every", "finds no weights to keep, so update_every= has no meaning"),
    Refused("weight_ema", "finds no weights to smooth, so weight_ema= has no meaning"),
)


def read_options(owner: str, given: BalancerOptions, refused: Sequence[Refused], own: Sequence[str] = ()) -> Options:
    """The options of the method called ``owner``, which has its ``own`` besides.

    Raises ValueError for an earlier name, a value out of range and one that is ``refused``; TypeError for other names.
    """
    for old, new in _RENAMED.items():
        if old in given:
            raise ValueError(f"{owner}: the option {old}= was renamed to {new}=")
    defaults = {field.name: field.default for field in fields(Options)}
    for name in given.keys() - defaults.keys():
        raise TypeError(f"{owner} has no option {name!r}; {suggestion(name, [*own, *defaults], 'choose from {}')}")
    options = Options(**given)
    for name, annotation in _hints(Options).items():
        check_value(owner, name, getattr(options, name), annotation)
    every, ema, limit = options.update_every, options.weight_ema, options.max_norm
    sample = options.sample
    kept = "sample= draws other objectives at each step, of which update_every= and weight_ema= would keep the weights"
    unmeasured = "measures no gradients between the steps of update_every=, so max_norm= would not hold there"
    rules = [
        (every >= 1 and every % 1 == 0, f"update_every must be a whole number of at least 1, got {every}"),
        (0 <= ema < 1, f"weight_ema must be in [0, 1), got {ema}"),
        (0 <= options.seed < 2**63, f"seed must be at least 0 and below 2**63, got {options.seed}"),
        (
            sample is None or (sample >= 2 and sample % 1 == 0),
            f"sample must be a whole number of at least 2 and below the number of objectives, got {sample}",
        ),
        (sample is None or (every == 1 and ema == 0), kept),
        (limit >= 0, f"max_norm must not be negative, got {limit}"),
        (limit == 0 or options.at == "shared", "max_norm= needs a gradient method with at='shared'"),
        (limit == 0 or every == 1, unmeasured),
        (options.memory != "lean" or options.at == "shared", "memory='lean' needs a Gramian method with at='shared'"),
    ]
    for option, reason, value in refused:
        actual = getattr(options, option)
        if actual == value if value is not None else actual != defaults[option]:
            raise ValueError(f"{owner}: {reason.format(value=repr(actual))}")
    for holds, problem in rules:
        if not holds:
            raise ValueError(f"{owner}: {problem}")
    return options
