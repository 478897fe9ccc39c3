"""The base class of every balancer: options, checks, state, and the step from losses to gradients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from balancing.backward import Step
from balancing.errors import BalancingError, NonFiniteError, SolverError
from balancing.options import check_options, ordered_losses, unknown_objective
from balancing.processes import average_over_processes, sum_over_samples
from balancing.report import BalanceReport
from balancing.rows import Gradients, deposit

__all__ = ["Balancer"]

Needs = Literal["nothing", "losses", "gramian", "jacobian"]


class Balancer(nn.Module):
    """Turns K losses into gradients. ``backward`` stands in for ``sum(losses).backward()``.

    A method overrides exactly one of :meth:`weights`, :meth:`combine` and :meth:`loss`, and says in ``needs`` what it
    must see: ``nothing`` (constant weights), the ``losses``, the ``gramian`` of the gradients or their ``jacobian``.
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
        max_norm: Shorten the combined gradient of the shared parameters to this length; 0 is off.
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
    #: How a preference p acts: on the ``weights`` found (w p), on the ``rows`` beforehand (p g), or as a ``target``:
    #: the method sees g / p, so that a min-norm or equal-progress direction makes progress in proportion to p.
    preference_on: ClassVar[Literal["weights", "rows", "target"]] = "weights"

    held: Tensor

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
        self.head_rule = heads or (self.head_convention if self.measures else "weighted")
        check_options(self)
        priorities = self._vector(preference or {}, default=1.0, positive=True)
        self.preference = priorities / priorities.mean()
        self.generator = torch.Generator().manual_seed(seed)
        self.step, self.skips = 0, 0
        self.register_buffer("held", torch.ones(len(self.objectives)))  # the weights that every= and ema= carry over
        self._pending: tuple[Tensor, Gradients] | None = None  # losses and gradients of earlier micro-batches
        self._partial: Tensor | None = None  # their losses, where gradients were written at once
        self._unmoved, self._versions = 0, -1

    # ---- what a method overrides ---------------------------------------------------------------------------------

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) losses and, for Gramian methods, the (K, K) Gramian -> (K,) weights. Runs without gradients."""
        raise TypeError(f"{self.name} does not find weights")

    def combine(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        """(K,) losses and (K, P) gradients -> (P,) update direction. Runs without gradients."""
        raise TypeError(f"{self.name} does not combine gradients coordinate by coordinate")

    def loss(self, losses: Tensor) -> Tensor:
        """(K,) losses -> the scalar to minimise, differentiable in the losses and in the balancer's parameters."""
        raise TypeError(f"{self.name} has no scalar loss")

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
        pending, self._pending = self._pending, None  # forgotten if this call fails
        values = ordered_losses(self, losses)
        seen = torch.stack([value.detach() for value in values])
        average_over_processes([seen])
        step = Step(self.name, values, shared, parameters, scaler)

        resting = self.step % self.every != 0
        constant = resting or (self.needs == "nothing" and not self.log_losses)
        if constant or (not self.measures and last and pending is None):
            return self._weigh(step, seen, resting, last)

        points = self._points(features, subset, last)
        gradients = step.collect(points, heads=self.at != "subset")
        if self.measures:
            self._check_reach(gradients)
        if pending is not None:
            seen, gradients = pending[0] + seen, pending[1] + gradients
        if not last:
            self._pending = (seen, gradients)
            return BalanceReport(self.objectives, seen, skips=self.skips)
        return self._balance(step, seen, gradients)

    def _weigh(self, step: Step, seen: Tensor, resting: bool, last: bool) -> BalanceReport:
        """One backward with weights that follow from nothing but these losses."""
        seen, self._partial = seen if self._partial is None else self._partial + seen, None
        finite = self._finite(seen, "loss")
        if finite:
            weights = self.held if resting else self._effective(seen, None)
            step.single_backward(weights, self.head_rule == "unit")
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
        points = [point for point in ([given] if isinstance(given, Tensor) else given) if point.requires_grad]
        if not points:
            raise BalancingError(f"{self.name}: none of the {self.at} requires a gradient; is the trunk frozen?")
        return points

    def _balance(self, step: Step, seen: Tensor, gradients: Gradients) -> BalanceReport:
        """Find the weights of collected gradients, and write the result to ``.grad``."""
        losses, gramian, factor = seen, None, step.loss_scale()
        if self.at != "features":
            gradients.synchronise()
        if self.measures:
            losses, gramian = seen.cpu().double(), gradients.gramian() / factor**2
            if self.at == "features":
                gramian = sum_over_samples(gramian, seen.device)
        overflow = step.is_scaled and gramian is not None and not bool(gramian.isfinite().all())
        if not overflow and not self._all_finite(losses, gramian):
            return self._skip(seen)

        weights: Tensor | None = torch.ones_like(losses)
        combined: list[Tensor] | None = None
        if overflow:
            pass  # the plain sum carries the infinity to the scaler, which skips the step and lowers its scale
        elif self.measures and not gradients.points:
            pass  # nothing is shared, so there is nothing to balance: each objective keeps its own gradient
        elif self.needs == "jacobian":
            combined, weights = self._combined_rows(losses, gradients, gramian, factor), None
        else:
            weights = self._effective(losses, gramian)

        if self.at == "subset" and weights is not None:
            step.single_backward(weights, self.head_rule == "unit")
            return self._finish(seen, weights, gramian, overflow)
        factors = [1.0] * len(self.objectives) if weights is None else weights.tolist()
        gradients.deposit_heads(factors if self.head_rule == "weighted" else [1.0] * len(factors))
        combined = gradients.combine(factors) if combined is None else combined
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
        chain, rows, losses = self._row_scale(losses, gramian)
        if gramian is not None:
            gramian = gramian * rows[:, None] * rows
        if type(self).loss is not Balancer.loss:
            raw = self._derivative(losses)
        else:
            try:
                with torch.no_grad():
                    raw = self.weights(losses, gramian)
            except SolverError as error:
                raise BalancingError(f"{self.name}: {error}") from error
        self._warn_if_idle()
        weights = raw * rows
        if self.normalize != "none" or (self.preference_on == "target" and gramian is not None):
            weights = weights * ((raw * chain).sum() / weights.sum())
        if self.preference_on == "weights":
            weights = weights * self.preference.to(weights)
        if self.scale == "sum" and self.convention == "mean":
            weights = weights * len(self.objectives)
        if self.ema > 0 and self.step > 0:
            weights = self.ema * self.held.to(weights) + (1 - self.ema) * weights
        if self.ema > 0 or self.every > 1:
            self.held.copy_(weights)
        if self.max_norm > 0 and gramian is not None:
            true = weights / rows
            length = (true @ gramian @ true).clamp(min=0).sqrt()
            weights = weights * (self.max_norm / length).clamp(max=1.0)
        return weights

    def _combined_rows(
        self, losses: Tensor, gradients: Gradients, gramian: Tensor | None, factor: float
    ) -> list[Tensor]:
        """The update of a method that needs the Jacobian, with every option applied, in the scale of ``.grad``."""
        _, rows, losses = self._row_scale(losses, gramian)
        jacobian = gradients.jacobian()
        jacobian *= (rows / factor).to(jacobian)[:, None]
        with torch.no_grad():
            update = self.combine(losses.to(jacobian.device), jacobian)
        if self.scale == "sum" and self.convention == "mean":
            update = update * len(self.objectives)
        if self.max_norm > 0:
            update = update * (self.max_norm / update.norm()).clamp(max=1.0)
        return gradients.split(update * factor)

    def _row_scale(self, losses: Tensor, gramian: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Factors of the gradients that the method is to see: those of the logarithm alone, and all; and its losses."""
        rows = torch.ones_like(losses)
        if self.log_losses or self.normalize in ("loss", "loss+"):
            self.require_positive(losses)
        if self.normalize in ("loss", "loss+"):
            rows = rows / losses
        chain = 1 / losses if self.log_losses else torch.ones_like(losses)
        rows, losses = rows * chain, losses.log() if self.log_losses else losses
        if self.normalize in ("l2", "loss+") and gramian is not None:
            lengths = gramian.diagonal().clamp(min=0).sqrt()
            rows = torch.where(lengths > 0, rows / lengths, rows)
        if self.measures and (self.preference_on != "weights" or self.needs == "jacobian"):
            priority = self.preference.to(rows)
            rows = rows / priority if self.preference_on == "target" else rows * priority
        return chain, rows, losses

    def _derivative(self, losses: Tensor) -> Tensor:
        """Weights of a method given by a scalar loss: its derivative. Its own parameters get their gradients here."""
        leaf = losses.detach().requires_grad_()
        own = list(self.parameters())
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
        for name in values:
            if name not in self.objectives:
                raise ValueError(f"{self.name}: {unknown_objective(name, self.objectives)}")
            if not math.isfinite(values[name]):
                raise ValueError(f"{self.name}: the value for objective {name!r} must be finite, got {values[name]}")
            if positive and not values[name] > 0:
                raise ValueError(f"{self.name}: the value for objective {name!r} must be positive, got {values[name]}")
        missing = [name for name in self.objectives if name not in values]
        if missing and default is None:
            raise ValueError(f"{self.name}: no value for objective {missing[0]!r}")
        return torch.tensor([float(values.get(name, default)) for name in self.objectives], dtype=torch.float64)  # type: ignore[arg-type]

    def _check_reach(self, gradients: Gradients) -> None:
        for name, row in zip(self.objectives, gradients.rows, strict=True):
            if row and all(gradient is None for gradient in row):
                where = "shared parameters" if self.at == "shared" else self.at
                raise BalancingError(
                    f"{self.name}: objective {name!r} reaches none of the {where}; leave it out of this balancer"
                )

    def _all_finite(self, losses: Tensor, gramian: Tensor | None) -> bool:
        return self._finite(losses, "loss") and (gramian is None or self._finite(gramian.diagonal(), "gradient"))

    def _finite(self, values: Tensor, what: str) -> bool:
        if bool(values.isfinite().all()):
            return True
        if self.on_nonfinite == "raise":
            index = int((~values.isfinite()).nonzero()[0])
            raise NonFiniteError(f"{self.name}: the {what} of objective {self.objectives[index]!r} is not finite")
        return False

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
            self.step += 1
        return BalanceReport(self.objectives, seen, weights, gramian, overflow, self.skips, overflow)

    def _warn_if_idle(self) -> None:
        """A learnable balancer that nobody optimises is a plain sum; say so once."""
        versions = sum(parameter._version for parameter in self.parameters())
        self._unmoved = self._unmoved + 1 if versions == self._versions else 0
        self._versions = versions
        if self._unmoved == 100 and any(True for _ in self.parameters()):
            warnings.warn(
                f"{self.name}: its parameters have not moved for 100 steps; give balancer.parameters() to an optimizer",
                stacklevel=5,
            )

    def get_extra_state(self) -> dict[str, Any]:
        """Counters and the random generator, as part of ``state_dict``."""
        return {"step": self.step, "skips": self.skips, "generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`get_extra_state`."""
        self.step, self.skips = state["step"], state["skips"]
        self.generator.set_state(state["generator"].cpu())

    def extra_repr(self) -> str:
        """Name and objectives, for ``print(balancer)``."""
        return f"{self.name}, objectives={self.objectives}"
