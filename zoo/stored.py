"""Arguments of models as config.json holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def plain(value: Any) -> Any:
    """Numbers and arrays of numpy or torch, and containers of any kind, as Python's own.

    Other objects are returned as they are.
    """
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return plain(value.tolist()) if hasattr(value, "tolist") else value


def is_storable(value: Any) -> bool:
    """Whether JSON gives a :func:`plain` value back as it is."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError):
        return False
