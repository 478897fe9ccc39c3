"""The learning rate at each step of a run, with names and bits of timm's schedules."""

from __future__ import annotations

import math

from mozoo.config import SchedulerConfig


def learning_rate(config: SchedulerConfig, highest: float, step: int, total_steps: int) -> float:
    """The rate of update ``step``, from 0 on: a linear warm-up to ``highest``, then a decay."""
    if config.name == "none":
        return highest
    warmup = round(config.warmup * total_steps)
    first, last = config.start * highest, config.end * highest
    if step < warmup:
        return first + step * ((highest - first) / warmup)
    step, steps = step - warmup, max(total_steps - warmup, 1)
    if config.name == "step":
        return float(highest * config.decay_rate ** (step // max(config.decay_every * total_steps, 1)))
    if step >= steps:
        return last
    if config.name == "cosine":
        return last + 0.5 * (highest - last) * (1 + math.cos(math.pi * step / steps))
    share = step / steps
    if config.name == "tanh":
        return last + 0.5 * (highest - last) * (1 - math.tanh(-7.0 * (1.0 - share) + 3.0 * share))
    assert config.name == "poly"
    return float(last + (highest - last) * (1 - share) ** config.decay_rate)
