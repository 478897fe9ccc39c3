from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.weak import WeakTensorKeyDictionary

from ..compiled import checked_backwards
from ..errors import BalancingError, NonFiniteError
from ..measuring.leaves import find_leaves, raise_if_any_hides
from ..measuring.looped import collect
from ..measuring.processes import average_over_processes
from ..measuring.step_losses import StepLosses, where
from ..objectives import ordered_losses

#: Computes the named losses of one batch with the model it is given.
Closure = Callable[[nn.Module], Mapping[str, Tensor | None]]
T = TypeVar("T")


class Lookahead:
    """The losses of one step, and of virtual steps, as functions of the model's parameters.

    Losses at other parameters than the model's own are also differentiated there: activation checkpointing computes a part
    of the model again in the backward, with the parameters and buffers that the model has then.

    Attributes:
        parameters: The leaves that the step moves.
        present: Whether each of the method's objectives has a training loss; K counts those that have.
        validated: Indices, among these, of those that have a validation loss, once it is known.
        losses: (K,) training losses at the parameters as they are, times the preference, with their graph.
        means: (K,) the same without graph and preference, averaged over processes.
        lr: Step size of a virtual step.
    """

    def __init__(
        self,
        owner: str,
        objectives: Sequence[str],
        preference: Tensor,
        model: nn.Module,
        train: Closure,
        validation: Closure,
        lr: float,
        parameters: Sequence[Tensor] | None,
    ) -> None:
        self._owner, self._all = owner, objectives
        self._model, self._train, self._validation, self.lr = model, train, validation, lr
        self._randomness = _Randomness(model)
        self._buffers = WeakTensorKeyDictionary()  # first of new leaves -> the copies of buffers that went with them
        size = len(objectives)
        step = StepLosses.agreed(owner, lambda: ordered_losses(owner, objectives, train(model)), size)
        self.present, self.means = step.present, step.means
        self.indices = where(step.present)
        if not self.indices:
            return
        self.validated = list(range(len(self.indices)))
        if len(self.indices) < len(objectives):
            step, preference = step.among(self.indices), preference[self.indices] / preference[self.indices].mean()
        self._objectives, self._preference, self.means = [objectives[k] for k in self.indices], preference, step.means
        raise_if_any_hides(owner, step.values)
        reached = set(find_leaves(step.values))
        reached = reached if parameters is None else reached & set(parameters)
        every = dict(model.named_parameters())
        here = self.mean(torch.tensor([float(p in reached) for p in every.values()], device=step.means.device))
        # those that any process reaches
        named = {name: p for (name, p), share in zip(every.items(), here.tolist(), strict=True) if share > 0}
        if not named:
            raise BalancingError(f"{owner}: the losses reach none of the model's trainable parameters")
        self._names, self.parameters = list(named), list[Tensor](named.values())
        self.losses = step.stacked * preference.to(step.stacked)

    def train_losses(self, parameters: Sequence[Tensor]) -> Tensor:
        """(K,) training losses of the model with these parameters, times the preference."""
        return self._call(self._train, parameters)[0]

    def validation_losses(self, parameters: Sequence[Tensor]) -> Tensor:
        """As :meth:`train_losses`, 0 where there is none; sets ``validated``.

        Raises NonFiniteError if a validation loss is not finite.
        """
        losses, present = self._call(self._validation, parameters)
        self.validated = where(present)
        self._require_finite(self.mean(losses), "validation loss")
        return losses

    def gradient(self, loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Gradient of a scalar, zero where it does not reach, averaged over processes."""
        reached: Sequence[Tensor | None] = [None] * len(parameters)
        if loss.requires_grad:
            reached = self._at(parameters, lambda: torch.autograd.grad(loss, parameters, allow_unused=True))
        # copies, as autograd may hand out views and aliases
        gradients = [torch.zeros_like(p) if g is None else g.clone() for g, p in zip(reached, parameters, strict=True)]
        average_over_processes(gradients)
        return gradients

    def rows(self, losses: Tensor, parameters: Sequence[Tensor], what: str) -> Rows:
        """Each loss's gradient, averaged over processes. Raises NonFiniteError naming ``what``."""
        values, active = losses.unbind(), None if losses.requires_grad else ()
        with checked_backwards(self._owner, dict(enumerate(values))):
            gradients = self._at(parameters, lambda: collect(values, parameters, {}, keep_graph=False, active=active))
        gradients.synchronize()
        rows = Rows(gradients.jacobian(), parameters)
        self._require_finite(rows.matrix.norm(dim=1), what)
        return rows

    def unmoved(self) -> list[Tensor]:
        """New leaves that share the parameters' memory, for losses with copies of the buffers."""
        return [p.detach().requires_grad_() for p in self.parameters]

    def moved(self, direction: Sequence[Tensor], size: float | Tensor) -> list[Tensor]:
        """New leaves: the parameters plus ``size`` times ``direction``."""
        return [(p.detach() + size * d).requires_grad_() for p, d in zip(self.parameters, direction, strict=True)]

    def mean(self, values: Tensor) -> Tensor:
        """A copy without graph, averaged over processes."""
        values = values.detach().clone()
        average_over_processes([values])
        return values

    def _call(self, closure: Closure, parameters: Sequence[Tensor]) -> tuple[Tensor, tuple[bool, ...]]:
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        if parameters is not self.parameters:
            self._buffers[parameters[0]] = buffers
        with self._randomness.replayed():
            losses = self._substitute(parameters, buffers, closure)

        def given() -> list[Tensor | None]:
            every = ordered_losses(self._owner, self._all, losses, differentiable=torch.is_grad_enabled())
            return [every[k] for k in self.indices]

        step = StepLosses.agreed(self._owner, given, len(self.indices))
        return step.stacked * self._preference.to(step.stacked), step.present

    def _at(self, parameters: Sequence[Tensor], differentiate: Callable[[], T]) -> T:
        """The result, found while the model has these parameters and their buffers."""
        buffers = self._buffers.get(parameters[0])
        return differentiate() if buffers is None else self._substitute(parameters, buffers, lambda _: differentiate())

    def _substitute(
        self, parameters: Sequence[Tensor], buffers: Mapping[str, Tensor], function: Callable[[nn.Module], T]
    ) -> T:
        pairs = zip(self._names, parameters, strict=True)
        tensors = {f"model.{name}": tensor for name, tensor in [*buffers.items(), *pairs]}
        return functional_call(_Within(self._model), tensors, (function,))

    def _require_finite(self, values: Tensor, what: str) -> None:
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            name = self._objectives[int(bad[0])]
            raise NonFiniteError(f"{self._owner}: the {what} of objective {name!r} is not finite")


class Rows:
    """(K, P) gradients of K losses, flattened."""

    def __init__(self, matrix: Tensor, parameters: Sequence[Tensor]) -> None:
        self.matrix, self._parameters = matrix, parameters

    def combine(self, weights: Tensor) -> list[Tensor]:
        """``sum_k weights[k] row_k``, a tensor per parameter."""
        with torch.autocast(self.matrix.device.type, enabled=False):
            combined = weights.to(self.matrix) @ self.matrix
        pieces = combined.split([p.numel() for p in self._parameters])
        return [piece.view(p.shape).to(p) for piece, p in zip(pieces, self._parameters, strict=True)]

    def products(self, others: Tensor) -> Tensor:
        """(K, M) inner products with the (M, P) rows of ``others``, float64 on the CPU."""
        with torch.autocast(self.matrix.device.type, enabled=False):
            return (self.matrix @ others.T).cpu().double()


class _Within(nn.Module):
    """Calls a function on a model: ``functional_call`` reaches by it more than ``forward``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], T]) -> T:
        return function(self.model)


class _Randomness:
    """The state of the random generators, to draw the same dropout masks again."""

    def __init__(self, model: nn.Module) -> None:
        self._devices = list({p.device for p in model.parameters() if p.is_cuda})
        self._cpu = torch.get_rng_state()
        self._cuda = [torch.cuda.get_rng_state(device) for device in self._devices]

    @contextmanager
    def replayed(self) -> Iterator[None]:
        with torch.random.fork_rng(self._devices):
            torch.set_rng_state(self._cpu)
            for device, state in zip(self._devices, self._cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield
