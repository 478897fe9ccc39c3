"""The base class of every balancer: options, checks, state, and the step from losses to gradients."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor, nn

from balancing import backward as engine
from balancing.report import BalanceReport

__all__ = ["Balancer", "BalancerOptions", "BalancingError"]

Needs = Literal["nothing", "losses", "gramian", "jacobian"]


class BalancingError(RuntimeError):
    """A step that cannot be balanced; the message names the objective or the method."""


class BalancerOptions(TypedDict, total=False):
    """The options of :class:`Balancer`, for the signatures of its subclasses."""

    at: Literal["shared", "features", "subset"]
    every: int
    preference: Mapping[str, float] | None
    heads: Literal["unit", "weighted"] | None
    scale: Literal["paper", "sum"]
    normalize: Literal["none", "l2", "loss", "loss+"]
    log_losses: bool
    ema: float
    max_norm: float
    on_nonfinite: Literal["raise", "skip"]
    seed: int


class Balancer(nn.Module):
    """Turns K losses into gradients. ``backward`` stands in for ``sum(losses).backward()``.

    A method overrides exactly one of :meth:`weights`, :meth:`combine` and :meth:`loss`, and says in ``needs`` what it
    must see: ``nothing`` (constant weights), the ``losses``, the ``gramian`` of the gradients or their ``jacobian``.
    State is buffers, parameters and the random generator, so ``state_dict`` makes the next step repeatable bit for bit.
    A balancer with parameters (``uncertainty``, ``gradnorm``) needs them in an optimizer, without weight decay.
    The K x K arithmetic runs where the balancer's state lives, which is the CPU unless you move it.

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
        on_nonfinite: ``raise`` on a non-finite loss or gradient, or ``skip`` the step and count it in the report.
        seed: Seed of the balancer's own random generator.

    Raises:
        ValueError: A value out of range, or an option that has no meaning for the method.
    """

    name: ClassVar[str] = "balancer"
    needs: ClassVar[Needs] = "losses"
    #: ``mean``: weights sum to about 1. ``sum``: to about K. ``own``: the method sets the length of the update itself.
    convention: ClassVar[Literal["mean", "sum", "own"]] = "sum"
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
        self._check_options()
        priorities = self._vector(preference or {}, default=1.0, positive=True)
        self.preference = priorities / priorities.mean()
        self.generator = torch.Generator().manual_seed(seed)
        self.step, self.skips = 0, 0
        self.register_buffer("held", torch.ones(len(self.objectives)))  # the weights that every= and ema= carry over
        self._pending: tuple[Tensor, engine.Gradients] | None = None
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
        values = self._ordered(losses)
        seen = torch.stack([value.detach() for value in values])
        engine.average_over_processes([seen])
        step = _Step([value if scaler is None else scaler.scale(value) for value in values], shared, parameters)

        resting = self.step % self.every != 0
        if resting or self.needs == "nothing" or (self.needs == "losses" and last and self._pending is None):
            if not self._finite(seen, "loss"):
                return self._skip(seen)
            weights = self.held if resting else self._effective(seen, None)
            self._single_backward(step, weights)
            return self._finish(seen, weights, None, last)

        if self.at == "features":
            gradients = self._collect_at_features(step, features, last)
        elif self.at == "subset":
            gradients = self._collect_at_subset(step, subset, last)
        else:
            gradients = self._collect_at_shared(step)
        if self._pending is not None:
            seen, gradients = self._pending[0] + seen, self._pending[1] + gradients
            self._pending = None
        if not last:
            self._pending = (seen, gradients)
            return BalanceReport(self.objectives, seen, skips=self.skips)
        return self._balance(step, seen, gradients, scaler)

    def _collect_at_shared(self, step: _Step) -> engine.Gradients:
        contested, others = step.partition()
        return self._reaching(engine.collect(step.losses, contested, others, keep_graph=False), "shared parameters")

    def _collect_at_subset(self, step: _Step, subset: Sequence[Tensor] | None, last: bool) -> engine.Gradients:
        if not subset or not last:
            problem = "cannot collect micro-batches; use at='shared'" if subset else "needs backward(..., subset=[...])"
            raise ValueError(f"{self.name}: at='subset' {problem}")
        return self._reaching(engine.collect(step.losses, subset, {}, keep_graph=True), "tensors of the subset")

    def _collect_at_features(
        self, step: _Step, features: Tensor | Sequence[Tensor] | None, last: bool
    ) -> engine.Gradients:
        if features is None or not last:
            problem = (
                "needs backward(..., features=...)"
                if features is None
                else "cannot collect micro-batches; use at='shared'"
            )
            raise ValueError(f"{self.name}: at='features' {problem}")
        points = [features] if isinstance(features, Tensor) else list(features)
        contested, others = step.partition(stop=points)
        if contested:
            raise BalancingError(
                f"{self.name}: {len(contested)} shared parameter(s) are reached without passing through the features; "
                "use at='shared', or give shared=model.shared_parameters() if the model is compiled"
            )
        return self._reaching(engine.collect(step.losses, points, others, keep_graph=True), "features")

    def _balance(
        self, step: _Step, seen: Tensor, gradients: engine.Gradients, scaler: torch.amp.GradScaler | None
    ) -> BalanceReport:
        """Find the weights of collected gradients, and write the result to ``.grad``."""
        losses, gramian, factor = seen, None, 1.0
        if self.at != "features":
            gradients.synchronise()
        if self.measures:
            losses, gramian = seen.cpu().double(), gradients.gramian()
            if self.at == "features":
                gramian = engine.sum_over_samples(gramian, seen.device)
            if scaler is not None and scaler.is_enabled():
                factor = float(scaler.scale(torch.ones((), device=seen.device)))
                gramian /= factor**2
        overflow = factor != 1.0 and gramian is not None and not bool(gramian.isfinite().all())
        if not overflow and not (
            self._finite(losses, "loss") and (gramian is None or self._finite(gramian.diagonal(), "gradient"))
        ):
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

        if self.at == "subset":
            self._single_backward(step, losses.new_ones(len(losses)) if weights is None else weights)
            return self._finish(seen, weights, gramian, True, overflow)
        factors = [1.0] * len(self.objectives) if weights is None else weights.tolist()
        gradients.deposit_heads(factors if self.head_rule == "weighted" else [1.0] * len(factors))
        combined = gradients.combine(factors) if combined is None else combined
        if self.at == "features":
            trunk = step.allowed(engine.find_leaves(gradients.points))
            found = torch.autograd.grad(gradients.points, list(trunk), grad_outputs=combined)
            engine.deposit(list(trunk), [gradient.clone() for gradient in found])
        else:
            engine.deposit(gradients.points, combined)
        return self._finish(seen, weights, gramian, True, overflow)

    def _single_backward(self, step: _Step, weights: Tensor) -> None:
        """Write the gradient of the weighted sum; leaves that one loss reaches get it unweighted if heads are ``unit``."""
        total = step.total(weights)
        if self.head_rule == "weighted":
            engine.weighted_backward(total, step.parameters)
            return
        contested, others = step.partition()
        for target, value in ((contested, total), (list(others), step.total(torch.ones_like(weights)))):
            if target:
                found = torch.autograd.grad(value, target, retain_graph=True)
                engine.deposit(target, [gradient.clone() for gradient in found])

    # ---- from what was seen to weights ---------------------------------------------------------------------------

    def _effective(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """The method's weights with every option applied."""
        place = self.held.device
        losses = losses.to(place)
        gramian = None if gramian is None else gramian.to(place)
        chain, rows, losses = self._row_scale(losses, gramian)
        if gramian is not None:
            gramian = gramian * rows[:, None] * rows
        if type(self).loss is not Balancer.loss:
            raw = self._derivative(losses)
        else:
            with torch.no_grad():
                raw = self.weights(losses, gramian)
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
        self, losses: Tensor, gradients: engine.Gradients, gramian: Tensor | None, factor: float
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

    def _check_options(self) -> None:
        if not self.objectives or len(set(self.objectives)) != len(self.objectives):
            raise ValueError(f"{self.name} needs one or more objectives with different names, got {self.objectives}")
        seen = self.measures
        weighs = self.needs in ("losses", "gramian")
        rules = [
            (self.at in ("shared", "features", "subset"), f"at must be shared, features or subset, got {self.at!r}"),
            (self.every >= 1, f"every must be at least 1, got {self.every}"),
            (self.head_rule in ("unit", "weighted"), f"heads must be unit or weighted, got {self.head_rule!r}"),
            (self.scale in ("paper", "sum"), f"scale must be paper or sum, got {self.scale!r}"),
            (
                self.normalize in ("none", "l2", "loss", "loss+"),
                f"normalize must be none, l2, loss or loss+, got {self.normalize!r}",
            ),
            (0 <= self.ema < 1, f"ema must be in [0, 1), got {self.ema}"),
            (self.max_norm >= 0, f"max_norm must not be negative, got {self.max_norm}"),
            (self.on_nonfinite in ("raise", "skip"), f"on_nonfinite must be raise or skip, got {self.on_nonfinite!r}"),
            (self.at == "shared" or seen, "looks at no gradients, so at= has no meaning"),
            (self.at != "subset" or self.needs == "gramian", "combines whole gradients, so at='subset' has no meaning"),
            (self.every == 1 or weighs, "finds no weights to keep, so every= has no meaning"),
            (self.ema == 0 or weighs, "finds no weights to smooth, so ema= has no meaning"),
            (self.head_rule == "weighted" or seen, "weighs losses, so heads='unit' has no meaning"),
            (
                self.head_rule == "unit" or self.needs != "jacobian",
                "finds no weights, so heads='weighted' has no meaning",
            ),
            (self.normalize == "none" or seen, "looks at no gradients, so normalize= has no meaning"),
            (
                self.max_norm == 0 or (seen and self.at == "shared"),
                "max_norm= needs a gradient method with at='shared'",
            ),
            (
                self.scale == "paper" or self.convention != "own",
                "sets the length of its update itself, so scale='sum' has no meaning",
            ),
        ]
        for holds, problem in rules:
            if not holds:
                raise ValueError(f"{self.name}: {problem}")

    def _vector(self, values: Mapping[str, float], default: float | None, positive: bool = False) -> Tensor:
        """(K,) tensor from a mapping by objective.

        Raises ValueError for an unknown name, a missing one without default, and a value that is not ``positive``.
        """
        for name in values:
            if name not in self.objectives:
                raise ValueError(f"{self.name}: {_unknown(name, self.objectives)}")
            if positive and not values[name] > 0:
                raise ValueError(f"{self.name}: the value for objective {name!r} must be positive, got {values[name]}")
        missing = [name for name in self.objectives if name not in values]
        if missing and default is None:
            raise ValueError(f"{self.name}: no value for objective {missing[0]!r}")
        return torch.tensor([float(values.get(name, default)) for name in self.objectives], dtype=torch.float64)  # type: ignore[arg-type]

    def _ordered(self, losses: Mapping[str, Tensor]) -> list[Tensor]:
        """The losses in order, in single precision at least."""
        for name in losses:
            if name not in self.objectives:
                raise ValueError(f"{self.name}: {_unknown(name, self.objectives)}")
        values = []
        for name in self.objectives:
            if name not in losses:
                raise ValueError(f"{self.name}: the loss of objective {name!r} is missing")
            value = losses[name]
            if value.dim() != 0:
                raise ValueError(
                    f"{self.name}: the loss of objective {name!r} must be a scalar, got shape {tuple(value.shape)}"
                )
            if not value.requires_grad:
                raise BalancingError(
                    f"{self.name}: the loss of objective {name!r} does not depend on any trainable parameter"
                )
            values.append(value.float() if value.dtype in (torch.float16, torch.bfloat16) else value)
        return values

    def _reaching(self, gradients: engine.Gradients, where: str) -> engine.Gradients:
        for name, row in zip(self.objectives, gradients.rows, strict=True):
            if self.measures and row and all(gradient is None for gradient in row):
                raise BalancingError(
                    f"{self.name}: objective {name!r} reaches none of the {where}; leave it out of this balancer"
                )
        return gradients

    def _finite(self, values: Tensor, what: str) -> bool:
        if bool(values.isfinite().all()):
            return True
        if self.on_nonfinite == "raise":
            index = int((~values.isfinite()).nonzero()[0])
            raise BalancingError(f"{self.name}: the {what} of objective {self.objectives[index]!r} is not finite")
        return False

    # ---- state ---------------------------------------------------------------------------------------------------

    def _skip(self, seen: Tensor) -> BalanceReport:
        self._pending = None
        self.skips += 1
        return BalanceReport(self.objectives, seen, skipped=True, skips=self.skips)

    def _finish(
        self, seen: Tensor, weights: Tensor | None, gramian: Tensor | None, last: bool, overflow: bool = False
    ) -> BalanceReport:
        if overflow:
            self.skips += 1
        elif last:
            self.step += 1
            self._warn_if_idle()
        return BalanceReport(self.objectives, seen, weights, gramian, skipped=overflow, skips=self.skips)

    def _warn_if_idle(self) -> None:
        """A learnable balancer that nobody optimises is a plain sum; say so once."""
        versions = sum(parameter._version for parameter in self.parameters())
        self._unmoved = self._unmoved + 1 if versions == self._versions else 0
        self._versions = versions
        if self._unmoved == 100 and any(True for _ in self.parameters()):
            warnings.warn(
                f"{self.name}: its parameters have not moved for 100 steps; give balancer.parameters() to an optimizer",
                stacklevel=4,
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


class _Step:
    """The losses of one call, and which leaves of their graphs it may touch."""

    def __init__(
        self, losses: Sequence[Tensor], shared: Sequence[Tensor] | None, parameters: Sequence[Tensor] | None
    ) -> None:
        self.losses = losses
        self.parameters = parameters
        self._shared = None if shared is None else set(shared)

    def allowed(self, masks: dict[Tensor, int]) -> dict[Tensor, int]:
        """Only the leaves that may receive gradients."""
        if self.parameters is None:
            return masks
        chosen = set(self.parameters)
        return {leaf: mask for leaf, mask in masks.items() if leaf in chosen}

    def partition(self, stop: Sequence[Tensor] = ()) -> tuple[list[Tensor], dict[Tensor, int]]:
        """The contested leaves, and the mask of objectives of each other leaf, in paths that do not cross ``stop``."""
        masks = self.allowed(engine.find_leaves(self.losses, stop))
        contested = {
            leaf
            for leaf, mask in masks.items()
            if (leaf in self._shared if self._shared is not None else mask.bit_count() > 1)
        }
        return [leaf for leaf in masks if leaf in contested], {
            leaf: mask for leaf, mask in masks.items() if leaf not in contested
        }

    def total(self, weights: Tensor) -> Tensor:
        """Weighted sum of the losses."""
        stacked = torch.stack(list(self.losses))
        return torch.dot(stacked, weights.to(stacked))


def _unknown(name: str, objectives: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, objectives, n=1)
    return f"unknown objective {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"the objectives are {', '.join(objectives)}"
    )
