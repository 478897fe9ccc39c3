"""The base class of balancers that look ahead, and the virtual steps they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Unpack

import torch
from torch import Tensor, nn
from torch.func import functional_call

from balancing.backward import collect, find_leaves
from balancing.balancer import Balancer
from balancing.errors import BalancingError, NonFiniteError, SolverError
from balancing.options import BalancerOptions, ordered_losses
from balancing.processes import average_over_processes
from balancing.report import BalanceReport

__all__ = ["Closure", "Lookahead", "MetaBalancer", "Rows"]

#: Computes the named losses of one batch with the model it is given.
Closure = Callable[[nn.Module], Mapping[str, Tensor]]


class MetaBalancer(Balancer):
    """A balancer that chooses weights by their effect on other data; ``meta_backward`` stands in for ``backward``.

    A method overrides :meth:`look_ahead`. What it learns is ``alpha``, one number per objective: give
    ``balancer.parameters()`` to an optimizer of its own. Both gradients are found before either optimizer steps, so the
    model moves with the weights that were learned up to the step before. A virtual step is plain gradient descent whatever
    the model's optimizer is, so it says little about losses so large that a step of this size overshoots: scale them
    first, or by ``preference``.

    >>> report = balancer.meta_backward(
    ...     model, lambda net: task.losses(net, batch), lambda net: task.losses(net, other_batch), lr=optimizer_lr
    ... )
    """

    needs = "validation"
    preference_on = "method"
    alpha: nn.Parameter

    def __init__(self, objectives: Sequence[str], **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        if self.log_losses:
            raise ValueError(f"{self.name}: compares losses on two batches as they are, so log_losses= has no meaning")

    def look_ahead(self, ahead: Lookahead) -> tuple[Tensor, list[Tensor], Tensor]:
        """The (K,) weights in force, the model's gradient as one tensor per ``ahead.parameters``, the (K,) gradient of alpha."""
        raise NotImplementedError

    def backward(self, *arguments: Any, **options: Any) -> NoReturn:
        """Raises TypeError: losses alone do not say what a step would do to the validation losses."""
        raise TypeError(f"{self.name} looks at validation losses: call meta_backward(model, train, validation, lr=...)")

    def weigh_first(self, before: Balancer) -> None:
        """Raises ValueError: weights are learned for the losses themselves."""
        raise ValueError(
            f"{self.name}: learns the weights of the losses itself, so {before.name} cannot come before it"
        )

    def meta_backward(
        self,
        model: nn.Module,
        train: Closure,
        validation: Closure,
        *,
        lr: float,
        parameters: Sequence[Tensor] | None = None,
    ) -> BalanceReport:
        """Add the gradients of the model's parameters and of the balancer's own to ``.grad``.

        ``train`` is called once with the model as it is: that call alone moves buffers (BatchNorm) and the random state.
        All other calls see the model with virtual parameters, copies of its buffers and the same random numbers, so the
        model's values stay as they are, and no copy of the model is made. In several processes gradients and losses
        are averaged before each virtual step, so all take the same. A preference multiplies the losses on both batches.

        Args:
            model: Its trainable parameters that the training losses reach receive gradients.
            train: The losses of a training batch.
            validation: The same losses on data that the step does not train on.
            lr: Step size of the virtual gradient step: the current learning rate of the model's optimizer.
            parameters: Only these receive gradients and take part in the virtual step; all if not given.

        Raises:
            ValueError: Missing or unknown objectives, or a learning rate that is not a finite number of at least 0.
            BalancingError: A loss that reaches no parameter, a non-finite value, a solver that failed.
        """
        if not (math.isfinite(lr) and lr >= 0):
            raise ValueError(f"{self.name}: lr must be finite and not negative, got {lr}")
        ahead = Lookahead(self, model, train, validation, float(lr), parameters)
        if not self._finite(ahead.seen, "loss"):
            return self._skip(ahead.seen)
        try:
            weights, gradients, slope = self.look_ahead(ahead)
            if not bool(slope.isfinite().all()):
                raise NonFiniteError(f"{self.name}: the gradient of its weights is not finite; is lr too large?")
        except NonFiniteError:
            if self.on_nonfinite == "raise":
                raise
            return self._skip(ahead.seen)
        except SolverError as error:
            raise BalancingError(f"{self.name}: {error}") from error
        self._warn_if_idle()
        for leaf, gradient in zip([*ahead.parameters, self.alpha], [*gradients, slope.to(self.alpha)], strict=True):
            leaf.grad = gradient if leaf.grad is None else leaf.grad.add_(gradient)
        return self._finish(ahead.seen, weights * self.preference.to(weights), None)


class Lookahead:
    """The losses of one step as functions of the model's parameters.

    Attributes:
        parameters: The leaves that the step moves.
        losses: (K,) training losses at the parameters as they are, times the preference, with their graph.
        seen: (K,) the same without graph and preference, averaged over processes.
        lr: Step size of a virtual step.
    """

    def __init__(
        self,
        balancer: Balancer,
        model: nn.Module,
        train: Closure,
        validation: Closure,
        lr: float,
        parameters: Sequence[Tensor] | None,
    ) -> None:
        self._balancer, self._model, self._train, self._validation, self.lr = balancer, model, train, validation, lr
        self._randomness = _Randomness(model)
        values = ordered_losses(balancer, train(model))
        reached = set(find_leaves(values)) if parameters is None else set(find_leaves(values)) & set(parameters)
        named = {name: p for name, p in model.named_parameters() if p in reached}
        if not named:
            raise BalancingError(f"{balancer.name}: the losses reach none of the model's trainable parameters")
        self._names, self.parameters = list(named), list[Tensor](named.values())
        stacked = torch.stack(values)
        self.seen = self.mean(stacked)
        self.losses = stacked * balancer.preference.to(stacked)

    def train_losses(self, parameters: Sequence[Tensor]) -> Tensor:
        """(K,) training losses of the model with these parameters, times the preference."""
        return self._call(self._train, parameters)

    def validation_losses(self, parameters: Sequence[Tensor]) -> Tensor:
        """(K,) validation losses of the model with these parameters, times the preference. Raises if one is not finite."""
        losses = self._call(self._validation, parameters)
        self._require_finite(self.mean(losses), "validation loss")
        return losses

    def gradient(self, loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Gradient of a scalar, zero where it does not reach, averaged over processes."""
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        # copies, as autograd may hand out views and aliases
        gradients = [torch.zeros_like(p) if g is None else g.clone() for g, p in zip(found, parameters, strict=True)]
        average_over_processes(gradients)
        return gradients

    def rows(self, losses: Tensor, parameters: Sequence[Tensor], what: str) -> Rows:
        """Each loss's gradient, averaged over processes. Raises, naming ``what`` it is, if one is not finite."""
        gradients = collect(losses.unbind(), parameters, {}, keep_graph=False)
        gradients.synchronise()
        rows = Rows(gradients.jacobian(), parameters)
        self._require_finite(rows.matrix.norm(dim=1), what)
        return rows

    def moved(self, direction: Sequence[Tensor], size: float | Tensor) -> list[Tensor]:
        """New leaves: the parameters plus ``size`` times ``direction``."""
        return [(p.detach() + size * d).requires_grad_() for p, d in zip(self.parameters, direction, strict=True)]

    def mean(self, values: Tensor) -> Tensor:
        """A copy without graph, averaged over processes."""
        values = values.detach().clone()
        average_over_processes([values])
        return values

    def _call(self, closure: Closure, parameters: Sequence[Tensor]) -> Tensor:
        tensors = {f"model.{name}": buffer.clone() for name, buffer in self._model.named_buffers()}
        tensors |= {f"model.{name}": p for name, p in zip(self._names, parameters, strict=True)}
        with self._randomness.replayed():
            found = functional_call(_Losses(self._model), tensors, (closure,))
        values = torch.stack(ordered_losses(self._balancer, found, differentiable=torch.is_grad_enabled()))
        return values * self._balancer.preference.to(values)

    def _require_finite(self, values: Tensor, what: str) -> None:
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            name = self._balancer.objectives[int(bad[0])]
            raise NonFiniteError(f"{self._balancer.name}: the {what} of objective {name!r} is not finite")


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


class _Losses(nn.Module):
    """Calls a closure on a model: what ``functional_call`` needs to reach all of a model, not its ``forward`` alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, closure: Closure) -> Mapping[str, Tensor]:
        return closure(self.model)


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
