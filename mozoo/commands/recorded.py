"""Measurements that ``mozoo list`` shows; ``lab/recorded.py`` writes them to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")


def recorded(group: str) -> dict[str, dict[str, Any]]:
    """Name -> what was measured, for ``models`` or ``balancers``.

    Of a model: ``parameters``, ``operations`` (multiply-accumulates for one sample), ``results`` and the ``command`` that they
    are of. Of a balancer: ``time`` of a step relative to a plain one, and ``studies``: how often it was better, the same or worse
    than tuned static weights.
    """
    return json.loads(FILE.read_text(encoding="utf-8"))[group]
