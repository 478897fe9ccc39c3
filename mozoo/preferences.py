"""Preferences of models that read one: drawn in training, from the command line later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from balancing import Balancer, PreferenceModel
from mozoo.arguments import ConfigError


def check_preferences(model: Any, balancer: Any) -> None:
    """Raise ConfigError for a model that reads a preference, and a balancer that draws none."""
    if isinstance(model, PreferenceModel) and not getattr(balancer, "draws", False):
        raise ConfigError(
            f"the model reads a preference, of which balancer {balancer.name} draws none, so it would learn a single one; "
            "use balancer=preference_sampling, or balancer=cosmos balancer.alpha=1"
        )


def draw_preference(model: Any, balancer: Balancer) -> None:
    """Give the model the preference of the coming step, if it reads one."""
    if isinstance(model, PreferenceModel):
        model.set_preference(balancer.draw())


def set_preference(model: Any, preference: Mapping[str, float] | None) -> None:
    """Give the model a preference, by default an equal one.

    Raises ConfigError for one that it cannot read.
    """
    if not isinstance(model, PreferenceModel):
        if preference is not None:
            raise ConfigError("preference is for a model that reads one, such as conditioned; leave it out")
        return
    try:
        model.set_preference(preference)
    except ValueError as error:
        raise ConfigError(f"preference: {error}") from None


def parse_preference(text: str | None) -> dict[str, float] | None:
    """``{cut: 3, price: 1}`` as a mapping. Raises ConfigError."""
    if text is None:
        return None
    try:
        value: Any = OverridesParser.create().parse_override(f"preference={text}").value()
    except HydraException:
        value = None
    numbers = value.values() if isinstance(value, dict) else ()
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise ConfigError(f"preference must be a number for each objective, such as {{cut: 3, price: 1}}, got {text}")
    return {str(name): float(number) for name, number in value.items()}
