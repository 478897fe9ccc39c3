from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..hints import warn_if_endless
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("stch")
class SmoothTchebycheff(LossBalancer):
    """A smooth maximum of the weighted losses.

    ``form="linear"``:  ``mu log sum_i exp(lambda_i (L_i - z_i) / mu)``, sum of lambda 1: ``tchebycheff`` as mu -> 0.
    ``form="log"``:  ``K mu log sum_i exp(log(p_i L_i / N_i) / mu)``, invariant to every scale. N is the mean
    of the losses over the ``measure`` epochs after a warm-up; up to then ``sum_i p_i log L_i`` is minimized.
    Lin et al., "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", ICML 2024, arXiv:2402.19078, whose
    multi-task experiments use the second form.

    needs: losses     scale: own     heads: weighted     preference: lambda, or p

    Args:
        form: ``linear`` or ``log``.
        mu: How smooth; in units of ``lambda_i L_i`` (``linear``) or of their logarithms (``log``; published: 1).
        ideal: z, a lower bound of each loss, 0 where not named (``linear`` only).
        nadir: N > 0 of every objective, or ``None`` to measure it (``log`` only).
        warmup: How long before N is measured (``log`` only).
        measure: How long N is averaged over (``log`` only).
        unit: Of ``warmup`` and ``measure``: ``step`` or ``epoch``, which ``balancer.next_epoch()`` counts.
    """

    convention = "own"
    preference_on = "method"
    state_options = ("form",)

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        form: Literal["linear", "log"] = "linear",
        mu: float = 1.0,
        ideal: Mapping[str, float] | None = None,
        nadir: Mapping[str, float] | None = None,
        warmup: int = 4,
        measure: int = 1,
        unit: Literal["step", "epoch"] = "epoch",
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(not mu > 0, f"mu must be positive, got {mu}")
        self.reject(form == "log" and ideal is not None, "ideal= has no meaning in the log form")
        self.reject(form == "log" and self.options.log_losses, "log_losses= has no meaning in the log form")
        self.reject(form == "linear" and nadir is not None, "nadir= has no meaning in the linear form")
        self.reject(not warmup >= 0, f"warmup must not be negative, got {warmup}")
        self.reject(not measure >= 1, f"measure must be at least 1, got {measure}")
        self.form, self.mu, self.unit = form, mu, unit
        self.warmup, self.until = (0, 0) if nadir is not None else (warmup, warmup + measure)
        self.ideal = self.vector(ideal or {}, default=0.0)
        self.reference: Tensor = nn.Buffer(torch.zeros(len(self.objectives)))
        self.measured: Tensor = nn.Buffer(torch.zeros(len(self.objectives), dtype=torch.int64))
        if nadir is not None:
            self.reference.copy_(self.vector(nadir, default=None, positive=True))
            self.measured.fill_(1)

    def advance(self) -> None:
        super().advance()
        if self.unit == "epoch" and self.form == "log" and self.until > 0:
            warn_if_endless(self, "unit='step'")

    def compute_weights(self, losses: Tensor) -> Tensor:
        if self.form == "log":
            return self._log_weights(losses)
        share = (self.preference / len(losses)).to(losses)
        return share * torch.softmax(share * (losses - self.ideal.to(losses)) / self.mu, 0)

    def _log_weights(self, losses: Tensor) -> Tensor:
        self.require_positive(losses)
        now = self.epoch if self.unit == "epoch" else self.step
        # one that joins after the measuring time takes its first loss
        measuring = (self.measured == 0) if now >= self.until else torch.full_like(self.measured, now >= self.warmup)
        self.measured += measuring.bool()
        self.reference += torch.where(measuring.bool(), (losses - self.reference) / self.measured, 0.0)
        priority = self.preference.to(losses)
        if now < self.until:
            return priority / losses
        terms = priority.log() + losses.log() - self.reference.to(losses).log()
        return len(losses) * torch.softmax(terms / self.mu, 0) / losses
