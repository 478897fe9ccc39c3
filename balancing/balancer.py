"""The base class of every balancer: options, checks, state, and the step from losses to gradients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from balancing.backward import Step
from balancing.combining import Workspace, combine_rows
from balancing.errors import BalancingError, NonFiniteError, SolverError
from balancing.options import check_options, objective_vector, ordered_losses
from balancing.processes import average_over_processes, several_processes, sum_over_samples
from balancing.report import BalanceReport
from balancing.rows import Gradients, deposit
from balancing.spans import span
from balancing.weighing import View, shortened, translate, view

__all__ = ["Balancer"]

Needs = Literal["nothing", "losses", "gramian", "jacobian", "validation"]


@dataclass
class _Part:
    """Losses and gradients of ``count`` micro-batches, summed."""

    losses: Tensor
    gradients: Gradients
    count: int

    def __add__(self, other: _Part) -> _Part:
        return _Part(self.losses + other.losses, self.gradients + other.gradients, self.count + other.count)


class Balancer(nn.Module):
    """Turns K losses into gradients. ``backward`` stands in for ``sum(losses).backward()``.

    A method overrides exactly one of :meth:`weights`, :meth:`loss`, :meth:`row_weights` and :meth:`combine`, and says in
    ``needs`` what it must see: ``nothing`` (its weights follow from the step alone), the ``losses``, the ``gramian`` of
    the gradients, their ``jacobian``, or losses on ``validation`` data (:class:`balancing.bilevel.MetaBalancer`).
    State is buffers, parameters and the random generator, so ``state_dict`` makes the next step repeatable bit for bit.
    A balancer with parameters (``uncertainty``, ``gradnorm``) needs them in an optimizer, without weight decay.
    Gradient methods do their K x K arithmetic on the CPU in float64, loss methods theirs where their state lives.

    Args:
        objectives: Names of the losses; their order is the order of every (K,) tensor.
        at: Where gradients are measured. ``shared``: parameters that several losses reach. ``features``: the tensors
            given to ``backward`` as ``features``, one trunk backward in all. ``subset``: the tensors given as ``subset``.
        every: Find new weights at every n-th step only; the steps between cost one backward.
        preference: Priorities of the objectives, 1 where not named; only their ratios matter.
        heads: What a leaf reached by one loss receives: its own gradient (``unit``) or that times the weight
            (``weighted``). ``None``: as the method defines it.
        scale: ``paper``: the length of the update as published. ``sum``: methods whose weights sum to 1 are multiplied
            by K, so that one learning rate serves them and the plain sum.
        normalize: Balance gradients divided by their length (``l2``), their loss (``loss``) or both (``loss+``). The sum
            of the weights stays what the method gives, so the update keeps the scale of the gradients.
        log_losses: Balance the logarithms of the losses, which must be positive.
        ema: Smooth the weights over steps, ``w <- ema w_previous + (1 - ema) w``; 0 is off.
        max_norm: Shorten the combined gradient of the shared parameters to this length, and no head's; 0 is off.
        on_nonfinite: ``raise`` on a non-finite loss, or gradient where the method measures it, or ``skip`` the step and
            count it in the report.
        seed: Seed of the balancer's own random generator.

    Raises:
        ValueError: A value out of range, or an option that has no meaning for the method.
    """

    name: ClassVar[str] = "balancer"
    needs: ClassVar[Needs] = "losses"
    #: ``mean``: weights sum to about 1. ``sum``: to about K. ``own``: the method sets the length of the update itself.
    convention: ClassVar[Literal["mean", "sum", "own"]] = "sum"
    #: Whether the method takes reciprocals or logarithms of the losses.
    positive: ClassVar[bool] = False
    #: What ``heads=None`` means for a gradient method.
    head_convention: ClassVar[Literal["unit", "weighted"]] = "unit"
    #: How a preference p acts: on the ``weights`` found (w p); on the ``rows`` beforehand (p g; p L for loss methods); as
    #: a ``target``: the method sees g / p, so that a min-norm or equal-progress direction makes progress in proportion
    #: to p; or in the ``method`` itself, which reads ``self.preference``.
    preference_on: ClassVar[Literal["weights", "rows", "target", "method"]] = "weights"
    #: Whether :meth:`weights` gives the same at every step, so that it is asked once.
    constant: ClassVar[bool] = False
    #: Whether micro-batches are kept apart as two samples, so that the Gramian becomes an unbiased estimate.
    unbiased: ClassVar[bool] = False
    #: Whether ``memory`` holds gradients, which must then have the same size at every step.
    remembers: ClassVar[bool] = False
    #: Whether :meth:`combine` may be given the rows piece by piece, as no coordinate looks at another.
    coordinatewise: ClassVar[bool] = False
    #: Whether the method wants :meth:`observe` to be called after the optimizer's step.
    observes: bool = False

    held: Tensor
    held_first: Tensor

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        at: Literal["shared", "features", "subset"] = "shared",
        every: int = 1,
        preference: Mapping[str, float] | None = None,
        heads: Literal["unit", "weighted"] | None = None,
        scale: Literal["paper", "sum"] = "paper",
        normalize: Literal["none", "l2", "loss", "loss+"] = "none",
        log_losses: bool = False,
        ema: float = 0.0,
        max_norm: float = 0.0,
        on_nonfinite: Literal["raise", "skip"] = "raise",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.objectives = tuple(objectives)
        self.at, self.every, self.scale, self.normalize = at, every, scale, normalize
        self.log_losses, self.ema, self.max_norm, self.on_nonfinite = log_losses, ema, max_norm, on_nonfinite
        self.measures = self.needs in ("gramian", "jacobian")
        self.combines = type(self).combine is not Balancer.combine
        self.head_rule = heads or (self.head_convention if self.measures else "weighted")
        check_options(self)
        priorities = self._vector(preference or {}, default=1.0, positive=True)
        self.preference = priorities / priorities.mean()
        self.generator = torch.Generator().manual_seed(seed)
        self.step, self.epoch, self.skips = 0, 0, 0
        self.register_buffer("held", torch.ones(len(self.objectives)))  # the weights that every= and ema= carry over
        self.memory: dict[str, Tensor] = {}  # state whose size only the first step tells
        self.before: Balancer | None = None
        self._known: Tensor | None = None  # weights that never change
        self._first: Tensor | None = None  # the weights that ``before`` found for this step
        self._pending: list[_Part] = []  # earlier micro-batches
        self._partial: Tensor | None = None  # their losses, where gradients were written at once
        self._workspace = Workspace()
        self._arriving: tuple[Tensor, torch.cuda.Event] | None = None  # losses that are still to be looked at
        self._unmoved, self._versions = 0, -1

    def weigh_first(self, before: Balancer) -> None:
        """Let ``before`` weigh the losses, and balance the weighted losses. Heads, too, get gradients of weighted losses.

        Raises ValueError if ``before`` does not weigh losses.
        """
        if before.needs not in ("nothing", "losses") or type(before).active is not Balancer.active:
            raise ValueError(f"{self.name}: only a method that weighs losses can come before it, not {before.name}")
        self.before, self.observes = before, self.observes or before.observes
        self.register_buffer("held_first", torch.ones(len(self.objectives)))

    # ---- what a method overrides ---------------------------------------------------------------------------------

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) losses and, for Gramian methods, the (K, K) Gramian -> (K,) weights.

        Called under ``torch.no_grad()``; for Gramian methods with float64 tensors on the CPU.
        """
        raise TypeError(f"{self.name} does not find weights")

    def loss(self, losses: Tensor) -> Tensor:
        """(K,) losses -> the scalar to minimise, differentiable in the losses and in the balancer's parameters."""
        raise TypeError(f"{self.name} has no scalar loss")

    def row_weights(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        """(K,) losses and (K, P) gradients -> (K,) weights. Called under ``torch.no_grad()``."""
        raise TypeError(f"{self.name} does not find weights from whole gradients")

    def combine(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        """(K,) losses and (K, P) gradients, which may be overwritten -> (P,) update direction. Called under ``torch.no_grad()``."""
        raise TypeError(f"{self.name} does not combine gradients coordinate by coordinate")

    def active(self) -> tuple[int, ...] | None:
        """Indices of the objectives that take part in the coming step, or ``None`` for all. The others cost nothing."""
        return None

    def update(self, losses: Tensor) -> None:
        """Learn from the (K,) losses that :meth:`observe` was given. Called under ``torch.no_grad()``."""

    # ---- one step ------------------------------------------------------------------------------------------------

    def backward(
        self,
        losses: Mapping[str, Tensor],
        *,
        shared: Sequence[Tensor] | None = None,
        parameters: Sequence[Tensor] | None = None,
        features: Tensor | Sequence[Tensor] | None = None,
        subset: Sequence[Tensor] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        last: bool = True,
    ) -> BalanceReport:
        """Add the balanced gradients of ``losses`` to ``.grad``.

        Args:
            losses: Name -> scalar tensor, exactly the balancer's objectives.
            shared: The contested parameters; found from the autograd graph if not given. Give them for a compiled model,
                whose graph does not tell heads from trunk.
            parameters: Only these receive gradients; every leaf of the graph if not given.
            features: What the heads read, for ``at="features"``.
            subset: Where gradients are measured for ``at="subset"``, e.g. the last shared layer.
            scaler: A GradScaler whose ``step`` will follow: ``.grad`` is scaled, weights are found from true gradients.
            last: False only collects the gradients of a micro-batch; the weights are found from the sum with the last.

        Returns:
            What was seen and done. Its tensors may still be on their way from the device; reading them waits.

        Raises:
            ValueError: Missing or unknown objectives, or missing ``features`` or ``subset``.
            BalancingError: A loss that reaches no parameter, a non-finite value, a solver that failed.
        """
        pending, partial = self._pending.copy(), self._partial
        self._pending.clear()  # forgotten if this call fails
        self._partial = None
        values = ordered_losses(self, losses)
        together = torch.stack(values)
        seen = together.detach()
        if several_processes():
            seen = seen.clone()
            average_over_processes([seen])
        active = self.active()
        step = Step(self.name, values, shared, parameters, scaler, active, self.objectives, together)

        resting = self.step % self.every != 0
        constant = resting or (self.needs == "nothing" and not self.log_losses and self.before is None)
        if constant or (not self.measures and last and not pending):
            return self._weigh(step, seen if partial is None else partial + seen, resting, last)

        points = self._points(features, subset, last)
        room = self._workspace.room if self.remembers and last and not pending else None
        part = _Part(seen, step.collect(points, self.at != "subset", room), 1)
        if self.measures:
            self._check_gradients(part.gradients, active)
        apart = self.unbiased and len(pending) == 1
        parts = [*pending, part] if not pending or apart else [*pending[1:], pending[0] + part]
        if not last:
            self._pending.extend(parts)
            return BalanceReport(self.objectives, torch.stack([p.losses for p in parts]).sum(0), skips=self.skips)
        return self._balance(step, parts)

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Show a method with ``observes`` the losses of the step's batch again, computed after the optimizer's step.

        Raises as :meth:`backward` does for losses that do not fit.
        """
        if self.before is not None:
            self.before.observe(losses)
        if type(self).update is not Balancer.update:
            values = torch.stack([v.detach() for v in ordered_losses(self, losses, differentiable=False)])
            average_over_processes([values])
            values = values.to(self.held.device)
            if self._finite(values, "loss"):
                with torch.no_grad():
                    self.update(values if self._first is None else values * self._first.to(values))

    def next_epoch(self) -> None:
        """Tell the balancer that an epoch has ended, for methods that count epochs."""
        self.epoch += 1
        if self.before is not None:
            self.before.next_epoch()

    def _weigh(self, step: Step, seen: Tensor, resting: bool, last: bool) -> BalanceReport:
        """One backward with weights that follow from nothing but these losses."""
        finite = self._finite_so_far(seen)
        if finite:
            weights = self.held.clone() if resting else self._effective(seen, None)
            step.single_backward(weights, self._head_weights(resting))
        if not last:
            self._partial = seen
            return BalanceReport(self.objectives, seen, skipped=not finite, skips=self.skips)
        return self._finish(seen, weights, None) if finite else self._skip(seen)

    def _points(
        self, features: Tensor | Sequence[Tensor] | None, subset: Sequence[Tensor] | None, last: bool
    ) -> list[Tensor] | None:
        """Where gradients are measured; ``None`` stands for all shared parameters."""
        if self.at == "shared":
            return None
        given = features if self.at == "features" else subset
        if given is None or len(given) == 0:
            raise ValueError(f"{self.name}: at={self.at!r} needs backward(..., {self.at}=...)")
        if not last:
            raise ValueError(f"{self.name}: at={self.at!r} cannot collect micro-batches; use at='shared'")
        points = [given] if isinstance(given, Tensor) else given
        points = list(dict.fromkeys(point for point in points if point.requires_grad))
        if not points:
            raise BalancingError(f"{self.name}: none of the {self.at} requires a gradient; is the trunk frozen?")
        return points

    def _balance(self, step: Step, parts: list[_Part]) -> BalanceReport:
        """Find the weights of collected gradients, and write the result to ``.grad``."""
        losses, gramian, unbiased, factor = parts[0].losses, None, None, step.loss_scale()
        if self.at != "features":
            for part in parts:
                part.gradients.synchronise()
        if len(parts) == 2:  # each holds a sum over some of the micro-batches
            share = parts[0].count * parts[1].count / (parts[0].count + parts[1].count) ** 2
            unbiased = parts[0].gradients.products(parts[1].gradients) / (share * factor**2)
            parts = [parts[0] + parts[1]]
        seen, gradients = parts[0].losses, parts[0].gradients
        if self.measures:
            with span("Gramian"):
                losses, gramian = seen.cpu().double(), gradients.gramian() / factor**2
            if self.at == "features":
                gramian = sum_over_samples(gramian, seen.device)
        overflow = step.is_scaled and gramian is not None and not bool(gramian.isfinite().all())
        overflow = overflow and bool(losses.isfinite().all())  # a smaller scale cannot mend a loss
        if not overflow and not self._all_finite(losses, gramian):
            return self._skip(seen)

        weights: Tensor | None = torch.ones_like(losses)
        combined: list[Tensor] | None = None
        if overflow:  # the plain sum carries the infinity to the scaler, which skips the step and lowers its scale
            self._first = None
        elif self.measures and not gradients.points:
            # nothing is shared, so there is nothing to balance: each objective keeps its own, or its first, gradient
            weights = self._weigh_before(losses)
        elif self.needs == "jacobian":
            if self.remembers:
                self._workspace.keep_order(self, gradients)
            weights, combined = combine_rows(self, self._view(losses, gramian), gradients, factor)
        else:
            weights = self._effective(losses, gramian if unbiased is None else unbiased)

        heads = self._head_weights()
        if self.at == "subset":
            assert weights is not None
            step.single_backward(weights, heads)
            return self._finish(seen, weights, gramian, overflow)
        if heads is None:
            assert weights is not None
            heads = weights
        gradients.deposit_heads(heads.tolist())
        with span("combination"):
            if combined is None:
                assert weights is not None
                combined = gradients.combine(shortened(self, weights, gramian).tolist())
        if self.at == "features":
            step.pass_on(gradients.points, combined)
        else:
            deposit(gradients.points, combined)
        return self._finish(seen, weights, gramian, overflow)

    # ---- from what was seen to weights ---------------------------------------------------------------------------

    def _effective(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """The method's weights with every option applied."""
        if gramian is None:
            losses = losses.to(self.held.device)
        if self._known is not None and self._known.dtype == losses.dtype and self._known.device == losses.device:
            return self._known
        seen = self._view(losses, gramian)
        if type(self).loss is not Balancer.loss:
            raw = self._derivative(seen.losses)
        else:
            raw = self.call(self.weights, seen.losses, seen.gramian)
        self._warn_if_idle()
        weights = translate(self, raw, seen)
        if self.constant and not self.log_losses and self.before is None:
            self._known = weights
        return weights

    def _view(self, losses: Tensor, gramian: Tensor | None) -> View:
        return view(self, losses, gramian, None if self.before is None else self._weigh_before(losses))

    def _weigh_before(self, losses: Tensor) -> Tensor:
        """The weights that ``before`` gives to these losses, kept for the heads; ones without it."""
        if self.before is None:
            return torch.ones_like(losses)
        resting = self.before.step % self.before.every != 0
        self._first = self.before.held if resting else self.before._effective(losses, None)
        self.held_first.copy_(self._first)
        return self._first.to(losses)

    def _head_weights(self, resting: bool = False) -> Tensor | None:
        """Weights of the gradients of heads; ``None`` if they are those of the shared parameters."""
        if self.head_rule == "weighted":
            return None
        first = self.held_first if resting and self.before is not None else self._first
        return torch.ones(len(self.objectives)) if first is None else first

    def call(self, method: Callable[..., Tensor], losses: Tensor, gradients: Tensor | None) -> Tensor:
        """What a method answers, without gradients and autocast. A solver that failed is a BalancingError."""
        try:
            with span("weights"), torch.no_grad(), torch.autocast(losses.device.type, enabled=False):
                return method(losses, gradients)
        except SolverError as error:
            raise BalancingError(f"{self.name}: {error}") from error

    def _derivative(self, losses: Tensor) -> Tensor:
        """Weights of a method given by a scalar loss: its derivative. Its own parameters get their gradients here."""
        leaf = losses.detach().requires_grad_()
        own = [parameter for parameter in self.parameters(recurse=False) if parameter.requires_grad]
        with torch.enable_grad():
            weights, *gradients = torch.autograd.grad(self.loss(leaf), [leaf, *own])
        for parameter, gradient in zip(own, gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return weights

    # ---- checks --------------------------------------------------------------------------------------------------

    def require_positive(self, losses: Tensor) -> None:
        """Raise BalancingError naming the first objective whose loss is not positive."""
        for name, value in zip(self.objectives, losses.tolist(), strict=True):
            if not value > 0:
                raise BalancingError(
                    f"{self.name}: the loss of objective {name!r} is {value:.6g}, but must be positive here"
                )

    def _vector(self, values: Mapping[str, float], default: float | None, positive: bool = False) -> Tensor:
        """(K,) tensor from a mapping by objective.

        Raises ValueError for an unknown name, a missing one without default, and a value that is not ``positive``.
        """
        return objective_vector(self, values, default, positive)

    def _check_gradients(self, gradients: Gradients, active: tuple[int, ...] | None) -> None:
        if any(point.is_complex() for point in gradients.points):
            raise BalancingError(
                f"{self.name}: a shared parameter is complex, but gradients are measured as real vectors; "
                "keep torch.view_as_real(parameter) as the parameter"
            )
        if any(gradient.is_sparse for row in gradients.rows for gradient in row if gradient is not None):
            raise BalancingError(f"{self.name}: cannot measure sparse gradients; use nn.Embedding(..., sparse=False)")
        for index, (name, row) in enumerate(zip(self.objectives, gradients.rows, strict=True)):
            if (active is None or index in active) and row and all(gradient is None for gradient in row):
                where = "shared parameters" if self.at == "shared" else self.at
                raise BalancingError(
                    f"{self.name}: objective {name!r} reaches none of the {where}; leave it out of this balancer"
                )

    def _all_finite(self, losses: Tensor, gramian: Tensor | None) -> bool:
        return self._finite(losses, "loss") and (gramian is None or self._finite(gramian.diagonal(), "gradient"))

    def _finite(self, values: Tensor, what: str) -> bool:
        finite = [math.isfinite(value) for value in values.tolist()]
        if not all(finite) and self.on_nonfinite == "raise":
            name = self.objectives[finite.index(False)]
            raise NonFiniteError(f"{self.name}: the {what} of objective {name!r} is not finite")
        return all(finite)

    def _finite_so_far(self, losses: Tensor) -> bool:
        """As :meth:`_finite`, but on CUDA one step late, so that nobody waits for the device: the losses are on their way."""
        if losses.device.type != "cuda" or self.on_nonfinite == "skip":
            return self._finite(losses, "loss")
        if self._arriving is not None:
            earlier, arrival = self._arriving
            arrival.synchronize()
            self._arriving = None
            try:
                self._finite(earlier, "loss")
            except NonFiniteError as error:
                error.late = True
                raise
        host = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True)
        host.copy_(losses, non_blocking=True)
        arrival = torch.cuda.Event()
        arrival.record()
        self._arriving = host, arrival
        return True

    # ---- state ---------------------------------------------------------------------------------------------------

    def _skip(self, seen: Tensor) -> BalanceReport:
        self.skips += 1
        return BalanceReport(self.objectives, seen, skipped=True, skips=self.skips)

    def _finish(
        self, seen: Tensor, weights: Tensor | None, gramian: Tensor | None, overflow: bool = False
    ) -> BalanceReport:
        if overflow:
            self.skips += 1
        else:
            self._advance()
        return BalanceReport(self.objectives, seen, weights, gramian, overflow, self.skips, overflow)

    def _advance(self) -> None:
        self.step += 1
        if self.before is not None:
            self.before._advance()

    def _warn_if_idle(self) -> None:
        """A learnable balancer that nobody optimises is a plain sum; say so once."""
        own = list(self.parameters(recurse=False))
        versions = sum(parameter._version for parameter in own)
        self._unmoved = self._unmoved + 1 if versions == self._versions else 0
        self._versions = versions
        if own and self._unmoved == 100:
            observing = ", and call balancer.observe after each step of the model's" if self.observes else ""
            warnings.warn(
                f"{self.name}: its parameters have not moved for 100 steps; "
                f"give balancer.parameters() to an optimizer{observing}",
                stacklevel=5,
            )

    def get_extra_state(self) -> dict[str, Any]:
        """Counters, the random generator and ``memory``, as part of ``state_dict``."""
        counters = {"step": self.step, "epoch": self.epoch, "skips": self.skips}
        return {**counters, "generator": self.generator.get_state(), "memory": dict(self.memory)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`get_extra_state`."""
        self.step, self.epoch, self.skips = state["step"], state["epoch"], state["skips"]
        self.generator.set_state(state["generator"].cpu())
        self.memory = {key: value.clone() for key, value in state["memory"].items()}

    def extra_repr(self) -> str:
        """Name and objectives, for ``print(balancer)``."""
        return f"{self.name}, objectives={self.objectives}"
