from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from .base import Balancer
from .loss_balancer import LossBalancer
from .measuring.call import Call
from .micro_batches import Step
from .report import BalanceReport
from .state import decode
from .step_method import LossWeights


class Composed(Balancer):
    """Two methods: the second balances the gradients of losses that the first weighs.

    Heads, too, get gradients of weighted losses. Options are those of the second method.

    Args:
        loss_balancer: A :class:`LossBalancer` that differentiates all losses, or a composition of such.
        gradient_balancer: Any balancer that is not a composition.

    Raises:
        ValueError: Methods that do not compose, or with different objectives.
    """

    #: Why nothing can come before a method that is a composition itself.
    weighs: ClassVar[str] = "weighs the losses itself"
    loss_balancer: Any  # balancers, whose weights depend on what their kind measures
    gradient_balancer: Any

    def __init__(self, loss_balancer: Balancer, gradient_balancer: Balancer) -> None:
        name, first = gradient_balancer.name, loss_balancer.name
        if not isinstance(gradient_balancer, Balancer):
            raise ValueError(f"{name}: learns the weights of the losses itself, so {first} cannot come before it")
        if isinstance(gradient_balancer, Composed):
            raise ValueError(f"{name}: {gradient_balancer.weighs}, so {first} before it has no meaning")
        innermost = loss_balancer.gradient_balancer if isinstance(loss_balancer, Composed) else loss_balancer
        if not isinstance(innermost, LossBalancer) or innermost.active() is not None:
            raise ValueError(f"{name}: only a method that weighs losses can come before it, not {first}")
        if loss_balancer.objectives != gradient_balancer.objectives:
            raise ValueError(f"{name}: {first} before it has other objectives, {loss_balancer.objectives}")
        kept = gradient_balancer.options.update_every > 1 or gradient_balancer.options.weight_ema > 0
        if loss_balancer.draws and (kept or gradient_balancer.draws):
            other = "keeps weights of earlier steps" if kept else "draws a preference itself"
            raise ValueError(f"{name}: {other}, so {first} before it, which draws one at each step, has no meaning")
        super().__init__(gradient_balancer.objectives)
        self.name, self.needs, self.options = name, gradient_balancer.needs, gradient_balancer.options
        self.preference, self.generator = gradient_balancer.preference, gradient_balancer.generator
        self.convention, self.head_rule = gradient_balancer.convention, gradient_balancer.head_rule
        self.measures = gradient_balancer.measures
        self.observes = loss_balancer.observes or gradient_balancer.observes
        self.gradient_balancer, self.loss_balancer = gradient_balancer, loss_balancer
        self.sampling = gradient_balancer.sampling
        self.micro_batches, self._agreement = gradient_balancer.micro_batches, gradient_balancer._agreement
        self._loss_weights_now: Tensor | None = None

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return self.loss_balancer.draws or self.gradient_balancer.draws

    def draw(self) -> Tensor:
        return (self.loss_balancer if self.loss_balancer.draws else self.gradient_balancer).draw()

    def active(self) -> tuple[int, ...] | None:
        return self.gradient_balancer.active()

    def effective_weights(self, losses: Tensor, *gramian: Tensor) -> Tensor:
        """(K,) weights of both, with every option applied; arguments as the second's kind has."""
        return self.gradient_balancer.effective_weights(losses, *gramian, self._first(losses))

    def compute_weights(self, losses: Tensor, *measured: Tensor) -> Tensor:
        """(K,) weights of the second method, with the arguments of its kind, for weighed losses."""
        return self.gradient_balancer.compute_weights(losses, *measured)

    def current_weights(self, losses: Tensor, first: LossWeights | None = None) -> Tensor:
        """:meth:`effective_weights`, or the last ones, between updates of ``update_every``."""
        return self.gradient_balancer.current_weights(losses, self._first)

    def _first(self, losses: Tensor) -> Tensor:
        self._loss_weights_now = self.loss_balancer.current_weights(losses)
        return self._loss_weights_now

    def _backward(self, step: Step, first: LossWeights | None, call: Call) -> BalanceReport:
        second = self.gradient_balancer
        before = second.step
        report = second._backward(step, self._first, call)
        if report.overflow:
            self._loss_weights_now = None
        if second.step > before:
            self.step = second.step
            self.loss_balancer.advance()
        self.skips, self.head_weights = second.skips, second.head_weights
        return report

    def _observe(self, means: Tensor, factors: Tensor | None) -> None:
        self.loss_balancer._observe(means, None)
        self.gradient_balancer._observe(means, self._loss_weights_now)

    def advance(self) -> None:
        super().advance()
        self.loss_balancer.advance()
        self.gradient_balancer.advance()

    def discard(self) -> None:
        self.gradient_balancer.discard()

    def next_epoch(self) -> None:
        super().next_epoch()
        self.loss_balancer.next_epoch()
        self.gradient_balancer.next_epoch()

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "before": self.loss_balancer.identity()}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        if f"{prefix}held" in state_dict:  # a state of an earlier version, in which the second method held the first
            former = {key: state_dict.pop(key) for key in [*state_dict] if key.startswith(prefix)}
            for key, value in former.items():
                part, name = "gradient_balancer", key.removeprefix(prefix)
                if name.startswith("before."):
                    part, name = "loss_balancer", name.removeprefix("before.")
                state_dict[f"{prefix}{part}.{name}"] = value
            counters = {**decode(former[f"{prefix}_extra_state"]), "memory": {}}
            state_dict |= {f"{prefix}held": former[f"{prefix}held"], f"{prefix}_extra_state": counters}
        super()._load_from_state_dict(state_dict, prefix, *arguments)
