"""Docstrings of the reference as Markdown, for mkdocstrings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import docstrings


class Markdown(griffe.Extension):
    """Extension of griffe that replaces what only Sphinx understands."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = docstrings.markdown(obj.docstring.value)
