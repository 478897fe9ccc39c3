"""Any aggregator of torchjd, run on this library's gradients."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from ..errors import BalancingError, SolverError
from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..jacobian_balancer import JacobianBalancer, RowBalancer
from ..method import Method
from ..options import BalancerOptions
from ..registry import suggestion

# what aggregators carry from call to call besides their buffers
_STATE = ("_state_key", "_n_steps", "step", "prvs_alpha")


class _Aggregator:
    """An aggregator of torchjd: its call, its random numbers and its state.

    Args:
        name: Name of the class.
        part: Attribute of the aggregator that is called; the aggregator itself if empty.
        size: K.
        arguments: Keyword arguments of the class.
        generator: Source of its random numbers.

    Raises:
        ValueError: The aggregator refuses the arguments or this number of objectives.
    """

    def __init__(
        self, name: str, part: str, size: int, arguments: Mapping[str, Any] | None, generator: torch.Generator
    ) -> None:
        self._name, self._part, self.size, self._generator = name, part, size, generator
        cls = _aggregator_class(name)
        given = {key: torch.tensor(v) if isinstance(v, (list, tuple)) else v for key, v in (arguments or {}).items()}
        if "n_tasks" in inspect.signature(cls).parameters:
            given.setdefault("n_tasks", size)
        try:
            self.module: Any = cls(**given)
            with torch.random.fork_rng(devices=[]):
                trial = self._called(copy.deepcopy(self.module))
                _move(trial, example := torch.eye(size, dtype=torch.float64))
                trial(example)
        except Exception as error:
            raise ValueError(f"torchjd: {name} with arguments {dict(arguments or {})}: {error}") from error

    def __call__(self, measured: Tensor) -> Tensor:
        """What torchjd makes of a Gramian or a Jacobian. Raises SolverError if it fails."""
        part = self._called(self.module)
        _move(part, measured)
        try:
            with self.drawing(measured.device):
                result = part(measured)
        except Exception as error:
            raise SolverError(f"{self._name}: {error}") from error
        if not bool(result.isfinite().all()):
            raise SolverError(f"{self._name} returned values that are not finite")
        return result

    def _called(self, aggregator: Any) -> Any:
        return getattr(aggregator, self._part) if self._part else aggregator

    @contextmanager
    def drawing(self, device: torch.device) -> Iterator[None]:
        """Seed the global random numbers from the generator, and restore their state afterwards."""
        seed = int(torch.randint(2**62, (), generator=self._generator))
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield

    def state(self) -> dict[str, dict[str, Any]]:
        """What the aggregator remembers, by path of its modules."""
        state: dict[str, dict[str, Any]] = {}
        for path, module in self.module.named_modules():
            values = {key: vars(module)[key] for key in _STATE if key in vars(module)}
            values |= dict(module.named_buffers(recurse=False))
            state[path] = {key: torch.as_tensor(v) if hasattr(v, "__array__") else v for key, v in values.items()}
        return {path: values for path, values in state.items() if values}

    def load_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Inverse of :meth:`state`."""
        if hasattr(self.module, "reset"):
            self.module.reset()
        for path, values in state.items():
            module: Any = self.module.get_submodule(path)
            for key, value in values.items():
                value = value.clone() if isinstance(value, Tensor) else value
                setattr(module, key, value.numpy() if key == "prvs_alpha" else value)
            if values.get("step"):  # NashMTL states its problem before the first step only
                module._init_optim_problem()


class _Adapter(Method):
    """A balancer with an aggregator, which is no submodule: its buffers have no fixed size."""

    name = "torchjd"
    convention = "own"
    preference_on = "rows"
    positional = True
    #: Attribute of the aggregator that is called; the aggregator itself if empty.
    part: ClassVar[str] = ""

    def __init__(
        self,
        objectives: Sequence[str],
        aggregator: str,
        arguments: Mapping[str, Any] | None,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.aggregator = _Aggregator(aggregator, self.part, len(self.objectives), arguments, self.generator)
        self._arguments = aggregator, dict(arguments or {})
        self._narrowed: dict[tuple[int, ...], _Aggregator] = {}

    def narrowed_to(self, indices: Sequence[int]) -> None:
        """Take an aggregator for fewer objectives.

        Raises BalancingError if it remembers those of earlier steps.
        """
        super().narrowed_to(indices)
        name, arguments = self._arguments
        if self.aggregator.state():
            raise BalancingError(f"torchjd: {name} remembers its objectives, so none of them can be absent from a step")
        key, size = tuple(indices), self.aggregator.size
        if len(indices) > 1 and key not in self._narrowed:
            arguments = {k: v for k, v in arguments.items() if k != "n_tasks"}
            for k, value in arguments.items():
                if isinstance(value, (list, tuple, Tensor)) and len(value) == size:
                    arguments[k] = [value[index] for index in indices]
            self._narrowed[key] = _Aggregator(name, self.part, len(indices), arguments, self.generator)
        self.aggregator = self._narrowed.get(key, self.aggregator)

    def identity(self) -> dict[str, Any]:
        identity = super().identity()
        return {**identity, "options": {**identity["options"], "aggregator": type(self.aggregator.module).__name__}}

    def _extra_state(self) -> dict[str, Any]:
        return super()._extra_state() | {"aggregator": copy.deepcopy(self.aggregator.state())}

    def _load_extra_state(self, state: dict[str, Any]) -> None:
        super()._load_extra_state(state)
        self.aggregator.load_state(state["aggregator"])


class GramianAggregator(_Adapter, GramianBalancer):
    """An aggregator that weighs gradients by their Gramian."""

    part = "gramian_weighting"

    @property
    def per_group(self) -> bool:  # type: ignore[override]
        """Whether the aggregator keeps nothing from step to step."""
        return not hasattr(self.aggregator.module, "reset")

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        return self.aggregator(gramian)


class RowAggregator(_Adapter, RowBalancer):
    """An aggregator that weighs rows, but must get all of them."""

    part = "weighting"

    def compute_weights(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        return self.aggregator(jacobian)


class CoordinateAggregator(_Adapter, JacobianBalancer):
    """An aggregator that finds no weights."""

    def combine(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        return self.aggregator(jacobian)


@register_balancer("torchjd")
def torchjd(
    objectives: Sequence[str],
    *,
    aggregator: str = "UPGrad",
    arguments: Mapping[str, Any] | None = None,
    **options: Unpack[BalancerOptions],
) -> GramianAggregator | RowAggregator | CoordinateAggregator:
    """Any aggregator of torchjd, with the options and the state of this library.

    It is the class called ``aggregator`` in ``torchjd.aggregation``.
    Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024, arXiv:2406.16232. Needs ``pip install
    "mozoo[torchjd]"``.

    needs: gramian, or jacobian where torchjd has no weighting of the Gramian     scale: own (as torchjd gives it)
    heads: unit     preference: scales the gradients beforehand
    Random aggregators draw from the balancer's own generator. What an aggregator remembers is part of the state, which
    torchjd itself cannot load into a fresh aggregator.

    Args:
        objectives: Names of the losses, in the order of the rows that the aggregator gets.
        aggregator: Name of the class.
        arguments: Its keyword arguments. Lists become tensors; ``n_tasks`` is the number of objectives if not given.

    Raises:
        ValueError: torchjd is missing or has no such aggregator, or it refuses the arguments or this number of objectives.
    """
    balancer = _kind(_aggregator_class(aggregator))(objectives, aggregator, arguments, **options)
    remembers = not isinstance(balancer, GramianAggregator) and hasattr(balancer.aggregator.module, "reset")
    if balancer.options.at == "features" and remembers:
        raise ValueError(f"torchjd: {aggregator} keeps gradients from step to step, so at='features' has no meaning")
    return balancer


def _aggregator_class(name: str) -> Any:
    """The class of torchjd. Raises ValueError with the nearest names if there is none."""
    try:
        from torchjd import aggregation
    except ImportError as error:
        raise ValueError('torchjd: the package is not installed; pip install "mozoo[torchjd]"') from error
    abstract = ("Aggregator", "WeightedAggregator", "GramianWeightedAggregator")
    exported = {key: getattr(aggregation, key) for key in aggregation.__all__ if key not in abstract}
    known = {key: cls for key, cls in exported.items() if issubclass(cls, aggregation.Aggregator)}
    if not isinstance(name, str):
        raise TypeError(f"torchjd: aggregator must be the name of a class, got {name!r}")
    if name not in known:
        raise ValueError(f"torchjd: unknown aggregator {name!r}; {suggestion(name.removesuffix('Weighting'), known)}")
    return known[name]


def _kind(aggregator: Any) -> type[GramianAggregator] | type[RowAggregator] | type[CoordinateAggregator]:
    from torchjd.aggregation import GramianWeightedAggregator, WeightedAggregator

    if issubclass(aggregator, GramianWeightedAggregator):
        return GramianAggregator
    return RowAggregator if issubclass(aggregator, WeightedAggregator) else CoordinateAggregator


def _move(part: nn.Module, measured: Tensor) -> None:
    """Move an aggregator's arguments, and a state that was loaded, to where ``measured`` is."""
    for module in part.modules():
        own = vars(module)
        own.update({key: value.to(measured) for key, value in own.items() if isinstance(value, Tensor)})
        for key, buffer in module.named_buffers(recurse=False):
            setattr(module, key, buffer.to(measured.device))
        if isinstance(own.get("_state_key"), tuple):
            own["_state_key"] = tuple(measured.device if isinstance(v, torch.device) else v for v in own["_state_key"])
