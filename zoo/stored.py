"""Arguments of models as config.json holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def plain(value: Any) -> Any:
    """Numbers and arrays of numpy or torch, mappings and sequences of any kind, as Python's own.

    Tuples stay tuples, and other objects what they are.
    """
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        items = [plain(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return plain(value.tolist()) if hasattr(value, "tolist") else value


def is_storable(value: Any) -> bool:
    """Whether JSON can hold a :func:`plain` value; tuples come back as lists."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
