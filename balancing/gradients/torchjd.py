"""Any aggregator of torchjd, run on this library's gradients."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from balancing.balancer import Balancer, Needs
from balancing.errors import SolverError
from balancing.factory import register_balancer
from balancing.options import BalancerOptions

__all__ = ["TorchJD"]

# what aggregators carry from call to call besides their buffers
_STATE = ("_state_key", "_n_steps", "step", "prvs_alpha")


@register_balancer("torchjd")
class TorchJD(Balancer):
    """The class called ``aggregator`` in ``torchjd.aggregation``, with the options and the state of this library.

    Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024. Needs ``pip install "mozoo[torchjd]"``.

    needs: gramian, or jacobian where torchjd has no weighting of the Gramian     scale: own (as torchjd gives it)
    heads: unit     preference: scales the gradients beforehand
    Random aggregators draw from the balancer's own generator. What an aggregator remembers is part of the state, which
    torchjd itself cannot load into a fresh aggregator.

    Args:
        objectives: Names of the losses, in the order of the rows that the aggregator sees.
        aggregator: Name of the class.
        arguments: Its keyword arguments. Lists become tensors; ``n_tasks`` is the number of objectives if not given.
        options: See :class:`balancing.Balancer`.

    Raises:
        ValueError: torchjd is missing or has no such aggregator, or it refuses the arguments or this number of objectives.
    """

    needs: ClassVar[Needs] = "gramian"
    convention = "own"
    preference_on = "rows"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        aggregator: str = "UPGrad",
        arguments: Mapping[str, Any] | None = None,
        **options: Unpack[BalancerOptions],
    ) -> None:
        cls = _aggregator_class(aggregator)
        self.__class__ = _balancer_class(cls)  # what a balancer is shown follows from its class
        super().__init__(objectives, **options)
        self.aggregator = aggregator
        given = {key: torch.tensor(v) if isinstance(v, (list, tuple)) else v for key, v in (arguments or {}).items()}
        if "n_tasks" in inspect.signature(cls).parameters:
            given.setdefault("n_tasks", len(self.objectives))
        try:
            # in a tuple, as its buffers have no fixed size and cannot be loaded as those of a submodule
            self._hidden: tuple[nn.Module] = (cls(**given),)
            with torch.random.fork_rng(devices=[]):
                trial = self._part(copy.deepcopy(self._hidden[0]))
                _move(trial, example := torch.eye(len(self.objectives), dtype=torch.float64))
                trial(example)
        except Exception as error:
            raise ValueError(f"torchjd: {aggregator} with arguments {dict(arguments or {})}: {error}") from error
        if self.at == "features" and self.needs == "jacobian" and hasattr(self._hidden[0], "reset"):
            raise ValueError(
                f"torchjd: {aggregator} keeps gradients from step to step, so at='features' has no meaning"
            )

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) weights that torchjd extracts from the Gramian."""
        assert gramian is not None
        return self._ask(gramian)

    def _part(self, aggregator: Any) -> nn.Module:
        """The part of the aggregator that turns what this class sees into what it returns."""
        return aggregator.gramian_weighting

    def _ask(self, seen: Tensor) -> Tensor:
        part = self._part(self._hidden[0])
        _move(part, seen)
        try:
            with self._drawing(seen.device):
                found = part(seen)
        except Exception as error:
            raise SolverError(f"{self.aggregator}: {error}") from error
        if not bool(found.isfinite().all()):
            raise SolverError(f"{self.aggregator} returned values that are not finite")
        return found

    @contextmanager
    def _drawing(self, device: torch.device) -> Iterator[None]:
        """Make the global random numbers those of the balancer's generator, and put the global state back afterwards."""
        seed = int(torch.randint(2**62, (), generator=self.generator))
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield

    def get_extra_state(self) -> dict[str, Any]:
        """The balancer's state and the aggregator's."""
        found: dict[str, dict[str, Any]] = {}
        for path, module in self._hidden[0].named_modules():
            values = {key: vars(module)[key] for key in _STATE if key in vars(module)}
            values |= dict(module.named_buffers(recurse=False))
            found[path] = {key: torch.as_tensor(v) if hasattr(v, "__array__") else v for key, v in values.items()}
        return super().get_extra_state() | {"aggregator": {path: values for path, values in found.items() if values}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`get_extra_state`."""
        super().set_extra_state(state)
        aggregator: Any = self._hidden[0]
        if hasattr(aggregator, "reset"):
            aggregator.reset()
        for path, values in state["aggregator"].items():
            module: Any = aggregator.get_submodule(path)
            for key, value in values.items():
                value = value.clone() if isinstance(value, Tensor) else value
                setattr(module, key, value.numpy() if key == "prvs_alpha" else value)
            if values.get("step"):  # NashMTL states its problem before the first step only
                module._init_optim_problem()


class _Rows(TorchJD):
    """Aggregators that weigh rows, but must see all of them."""

    needs = "jacobian"

    def row_weights(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        return self._ask(jacobian)

    def _part(self, aggregator: Any) -> nn.Module:
        return aggregator.weighting


class _Coordinates(TorchJD):
    """Aggregators that find no weights."""

    needs = "jacobian"

    def combine(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        return self._ask(jacobian)

    def _part(self, aggregator: Any) -> nn.Module:
        return aggregator


def _aggregator_class(name: str) -> Any:
    """The class of torchjd. Raises ValueError with the nearest names if there is none."""
    try:
        from torchjd import aggregation
    except ImportError as error:
        raise ValueError('torchjd: the package is not installed; pip install "mozoo[torchjd]"') from error
    abstract = ("Aggregator", "WeightedAggregator", "GramianWeightedAggregator")
    exported = {key: getattr(aggregation, key) for key in aggregation.__all__ if key not in abstract}
    known = {key: cls for key, cls in exported.items() if issubclass(cls, aggregation.Aggregator)}
    if name not in known:
        near = difflib.get_close_matches(name.removesuffix("Weighting"), known, n=3)
        raise ValueError(
            f"torchjd: unknown aggregator {name!r}; "
            + (f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(sorted(known))}")
        )
    return known[name]


def _balancer_class(aggregator: Any) -> type[TorchJD]:
    from torchjd.aggregation import GramianWeightedAggregator, WeightedAggregator

    if issubclass(aggregator, GramianWeightedAggregator):
        return TorchJD
    return _Rows if issubclass(aggregator, WeightedAggregator) else _Coordinates


def _move(part: nn.Module, seen: Tensor) -> None:
    """Let the tensors of an aggregator live where ``seen`` does: its arguments, and a state that was loaded."""
    for module in part.modules():
        own = vars(module)
        own.update({key: value.to(seen) for key, value in own.items() if isinstance(value, Tensor)})
        for key, buffer in module.named_buffers(recurse=False):
            setattr(module, key, buffer.to(seen.device))
        if isinstance(own.get("_state_key"), tuple):
            own["_state_key"] = tuple(seen.device if isinstance(v, torch.device) else v for v in own["_state_key"])
