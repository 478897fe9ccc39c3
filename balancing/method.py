from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar, Unpack

import torch
from torch import Tensor, nn

from .errors import BalancingError, SolverError
from .finiteness import FiniteCheck
from .objectives import objective_names, unknown_objective
from .options import BalancerOptions, Refused, read_options
from .report import BalanceReport
from .spans import span, without_autocast
from .state import by_objective, check_identity, decode, encode

R = TypeVar("R")


class Method(nn.Module):
    """Base class of :class:`balancing.Balancer` and :class:`balancing.BilevelBalancer`.

    State is buffers, parameters and the random generator, so ``state_dict`` makes the next step repeatable bit for bit.

    Args:
        objectives: Names of the losses; their order is the order of every (K,) tensor.
        options: See :class:`balancing.Options`, of which a kind refuses those without meaning for it.

    Attributes:
        preference: (K,) priorities of mean 1.
        step: Updates so far.
        epoch: Epochs that have ended.
        skips: Steps that were skipped.
        memory: State whose size is known after the first step.

    Raises:
        ValueError: A value out of range, or an option that has no meaning for the method.
    """

    #: Name in the registry, with which messages begin.
    name: str = "balancer"
    #: Input of the method, for tables: ``nothing`` but the step, ``losses``, ``gramian``, ``jacobian`` or ``validation``.
    needs: str = ""
    #: ``mean``: weights sum to about 1. ``sum``: to about K. ``own``: the method sets the length of the update itself.
    convention: Literal["mean", "sum", "own"] = "sum"
    #: Whether the update is scaled by coordinate as Adam scales it, which an adaptive optimizer would do once more.
    adaptive: ClassVar[bool] = False
    #: Whether the method takes reciprocals or logarithms of the losses.
    positive: ClassVar[bool] = False
    #: How a preference p acts: on the ``weights`` (w p); on the ``rows`` beforehand (p g; p L for loss methods); as a
    #: ``target``: the method gets g / p, so that a min-norm or equal-progress direction makes progress in proportion
    #: to p; or in the ``method`` itself, which reads ``self.preference``.
    preference_on: ClassVar[Literal["weights", "rows", "target", "method"]] = "weights"
    #: Options without meaning for the kind.
    refused: ClassVar[tuple[Refused, ...]] = ()
    #: Whether gradients are measured; K x K arithmetic then runs on the CPU in float64.
    measures: bool = False
    #: Whether the method learns from :meth:`balancing.Balancer.observe`.
    observes: bool = False
    #: Set by a loop that is known to call :meth:`next_epoch`, so that a long first epoch causes no warning.
    ends_epochs: bool = False
    #: What the gradient of a leaf that one loss reaches is multiplied by: 1 (``unit``), or the loss's weight (``weighted``).
    head_rule: Literal["unit", "weighted"] = "weighted"
    #: Attributes that decide what the state means: a state with another value of one of them is refused.
    state_options: ClassVar[tuple[str, ...]] = ()
    #: Tensor in the state -> its axes with an entry per objective, if it is not a vector of K numbers, which has one.
    per_objective: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    #: Vector in the state of which only proportions count -> its sum: ``one``, ``size`` (K); ``log``: of logarithms.
    #: While some objectives are absent the others have this sum; afterwards they have the share again that they had.
    proportions: ClassVar[Mapping[str, Literal["one", "size", "log"]]] = {}
    #: Entries of ``memory`` that belong to one step, which loading by name leaves out.
    momentary: ClassVar[tuple[str, ...]] = ()
    #: Index of the objective that the others serve, in a method with one; a state with another is refused.
    primary: int | None = None
    #: Whether the state depends on the positions of the objectives, so that it cannot be loaded by name.
    positional: ClassVar[bool] = False

    def __init__(self, objectives: Sequence[str], **options: Unpack[BalancerOptions]) -> None:
        super().__init__()
        for attribute in dir(type(self)):
            if getattr(getattr(type(self), attribute, None), "__isabstractmethod__", False):
                raise TypeError(
                    f"{self.name}: {type(self).__name__} must define {attribute}(), the formula of its kind"
                )
        self.objectives = objective_names(self.name, objectives)
        own = [name for name in inspect.signature(type(self)).parameters if name not in ("objectives", "options")]
        self.options = read_options(self.name, options, self._refused(), own)
        priorities = self.vector(self.options.preference or {}, default=1.0, positive=True)
        ratio = float(priorities.max() / priorities.min())
        self.reject(not ratio <= 1e12, f"priorities must not differ by more than 1e12, got {self.options.preference}")
        self.preference = priorities / priorities.mean()
        self.generator = torch.Generator().manual_seed(int(self.options.seed))  # also of numpy
        self.step, self.epoch, self.skips = 0, 0, 0
        self.memory: dict[str, Tensor] = {}
        self.finite = FiniteCheck(self.name, self.objectives, self.options.on_nonfinite == "skip")
        self._unmoved, self._versions, self._unshared = 0, -1, 0
        self._still: list[Tensor] = []  # own parameters where they stopped

    def narrowed_to(self, indices: Sequence[int]) -> None:
        """Adapt what is no tensor with an entry per objective.

        Called on the copy that takes a step from which all but the objectives with these ``indices`` are absent.
        """

    def check_groups(self) -> None:
        """Raise ValueError if weights cannot be found per group."""
        raise ValueError(
            f"{self.name}: groups= needs a method that finds weights from the Gramian alone, such as pcgrad"
        )

    def next_epoch(self) -> None:
        """Count an epoch that has ended, for methods whose weights depend on it."""
        self.epoch += 1

    def advance(self) -> None:
        """Count a step that was taken."""
        self.step += 1

    def vector(self, values: Mapping[str, float], default: float | None, positive: bool = False) -> Tensor:
        """(K,) float64 tensor from a mapping by objective.

        Raises ValueError for an unknown name, a missing one without default, and a value that is not ``positive``.
        """
        for name, value in values.items():
            if name not in self.objectives:
                raise ValueError(f"{self.name}: {unknown_objective(name, self.objectives)}")
            self.reject(not math.isfinite(value), f"the value for objective {name!r} must be finite, got {value}")
            self.reject(positive and not value > 0, f"the value for objective {name!r} must be positive, got {value}")
        missing = [name for name in self.objectives if name not in values]
        if missing and default is None:
            raise ValueError(f"{self.name}: no value for objective {missing[0]!r}")
        return torch.tensor([float(values.get(name, default)) for name in self.objectives], dtype=torch.float64)  # type: ignore[arg-type]

    def reject(self, wrong: bool, problem: str) -> None:
        """Raise ValueError about an argument that is ``wrong``."""
        if wrong:
            raise ValueError(f"{self.name}: {problem}")

    def _call(self, method: Callable[..., R], losses: Tensor, *arguments: Any) -> R:
        """Result without gradients and autocast. Raises BalancingError if a solver failed."""
        try:
            with span("weights"), torch.no_grad(), without_autocast(losses.device.type):
                return method(losses, *arguments)
        except SolverError as error:
            raise BalancingError(f"{self.name}: {error}") from error

    def require_positive(self, losses: Tensor) -> None:
        """Raise BalancingError naming the first objective whose loss is not positive."""
        for name, value in zip(self.objectives, losses.tolist(), strict=True):
            if not value > 0:
                problem = f"is {value:.6g}, but must be positive here"
                problem += "; give None for an objective without data in this step" if value == 0 else ""
                raise BalancingError(f"{self.name}: the loss of objective {name!r} {problem}")

    def _refused(self) -> list[Refused]:
        """Options without meaning for the method."""
        refused = [*self.refused]
        if self.positive:
            refused.append(Refused("log_losses", "needs positive losses, so log_losses= has no meaning"))
        if self.convention == "own":
            refused.append(Refused("scale", "sets the length of its update itself, so scale='sum' has no meaning"))
        return refused

    def skip(self, losses: Tensor) -> BalanceReport:
        """Report of a step that is not taken."""
        self.skips += 1
        return BalanceReport(self.objectives, losses, skipped=True, skips=self.skips)

    def finish(
        self, losses: Tensor, weights: Tensor | None, gramian: Tensor | None = None, overflow: bool = False
    ) -> BalanceReport:
        """Report of a step that is taken, or that a GradScaler will skip for an ``overflow``."""
        if overflow:
            self.skips += 1
        else:
            self.advance()
        return BalanceReport(self.objectives, losses, weights, gramian, overflow, self.skips, overflow)

    def identity(self) -> dict[str, Any]:
        """What a state belongs to: method, objectives, and the options that decide what it means."""
        options = {name: getattr(self.options, name) for name in ("at", "normalize", "log_losses")}
        options |= {name: getattr(self, name) for name in self.state_options}
        if self.primary is not None:
            options["primary"] = self.objectives[self.primary]
        return {"method": self.name, "objectives": self.objectives, "options": options}

    def get_extra_state(self) -> Tensor:
        """What ``state_dict`` has beside parameters and buffers, as (n,) bytes.

        They are :meth:`identity`, counters, the random generator and ``memory``.
        """
        return encode(self._extra_state())

    def set_extra_state(self, state: Any) -> None:
        """Inverse of :meth:`get_extra_state`."""
        self._load_extra_state(decode(state))

    def load_objectives(self, state: Mapping[str, Any]) -> tuple[str, ...]:
        """Load a ``state_dict`` by the names of the objectives.

        They may have another order, and this balancer may have more or fewer of them. Counters and random generator are loaded
        as by ``load_state_dict``.

        Args:
            state: A ``state_dict`` of the same method with the same options.

        Returns:
            The objectives that the state does not have. What belongs to them stays as it is.

        Raises:
            ValueError: No objective in common, another method or option, a state without names, or one that depends on the
                order of the objectives.
        """
        self.reject(not isinstance(state, Mapping), f"the state must be a state_dict, got {type(state).__name__}")
        converted, names = dict(state), self._names_in(state)
        own = self.state_dict()
        for path, method in self.named_modules():
            key = f"{path}." if path else ""
            if isinstance(method, Method):
                converted |= method._by_objective(state, own, key, names)
        self.load_state_dict(converted)
        return tuple(name for name in self.objectives if name not in names)

    def _names_in(self, state: Mapping[str, Any]) -> tuple[str, ...]:
        """The objectives of a state.

        Raises ValueError if it has no names, or none of this balancer's.
        """
        names = tuple(decode(state.get("_extra_state", {})).get("objectives", ()))
        self.reject(
            not names, "the state has no names of objectives: it is not of a balancer, or of an earlier version"
        )
        problem = f"the state is of the objectives {', '.join(names)}, none of which this balancer has"
        self.reject(not {*names} & {*self.objectives}, problem)
        return names

    def _by_objective(
        self, state: Mapping[str, Any], own: Mapping[str, Any], prefix: str, names: tuple[str, ...]
    ) -> dict[str, Any]:
        """Entries of ``state`` for this method's objectives; ``own`` has those of new ones."""
        problem = "its state depends on the order of the objectives, so it cannot be loaded by name"
        self.reject(self.positional and names != self.objectives, problem)
        converted: dict[str, Any] = {}
        for key in own:
            local, extra = key.removeprefix(prefix), key == f"{prefix}_extra_state"
            if key.startswith(prefix) and key in state and not extra and isinstance(state[key], Tensor):
                axes = self.per_objective.get(local)
                converted[key] = by_objective(state[key], own[key], axes, names, self.objectives)
        saved = decode(state[f"{prefix}_extra_state"])
        memory = {
            key: by_objective(value, self.memory.get(key), self.per_objective.get(key), names, self.objectives)
            for key, value in saved["memory"].items()
            if key not in self.momentary
        }
        identity = {"objectives": self.objectives, "memory": memory}
        return converted | {f"{prefix}_extra_state": encode(saved | identity)}

    def _extra_state(self) -> dict[str, Any]:
        counters = {"step": self.step, "epoch": self.epoch, "skips": self.skips}
        memory = {key: value.detach().clone() for key, value in self.memory.items()}
        return {**self.identity(), **counters, "generator": self.generator.get_state(), "memory": memory}

    def _load_extra_state(self, state: dict[str, Any]) -> None:
        self.step, self.epoch, self.skips = state["step"], state["epoch"], state["skips"]
        self.generator.set_state(state["generator"].cpu())
        self.memory = {key: value.clone() for key, value in state["memory"].items()}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        weights = state_dict.pop(f"{prefix}held", None)  # a state of an earlier version, which had no cache
        if weights is not None and "cache" in self._modules:
            heads = state_dict.pop(f"{prefix}held_first", torch.ones_like(weights))
            state_dict |= {f"{prefix}cache.weights": weights, f"{prefix}cache.heads": heads}
        for key, buffer in self._buffers.items():
            value = state_dict.get(prefix + key)
            if value is not None and buffer is not None and value.dim() == 0 and buffer.dim() == 1:
                state_dict[prefix + key] = value.expand_as(buffer)  # of an earlier version: one for all objectives
        check_identity(self.name, self.identity(), decode(state_dict.get(f"{prefix}_extra_state", {})))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        """Name and objectives, for ``print(balancer)``."""
        return f"{self.name}, objectives={self.objectives}"
