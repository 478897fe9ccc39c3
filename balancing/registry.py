"""One registry for balancers, models and tasks, with the standard library alone."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatch
from typing import Generic, TypeVar

T = TypeVar("T")


def suggestion(name: str, known: Iterable[str], otherwise: str = "known: {}") -> str:
    """``did you mean a, b?`` with the nearest of the known names, or all if none is near."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=3)
    return f"did you mean {', '.join(near)}?" if near else otherwise.format(", ".join(options))


class Registry(Generic[T]):
    """Things by their unique names; messages call each a ``kind``, e.g. ``balancer``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        """Make ``entry`` known as ``name``. Raises ValueError if the name is taken."""
        if name in self._entries:
            taken = getattr(self._entries[name], "__qualname__", name)
            raise ValueError(f"a {self.kind} named {name!r} is already registered ({taken})")
        self._entries[name] = entry

    def get(self, name: str) -> T:
        """The entry of this name. Raises ValueError with the nearest names if there is none."""
        if name not in self._entries:
            raise ValueError(f"unknown {self.kind} {name!r}; {suggestion(name, self._entries)}")
        return self._entries[name]

    def names(self, filter: str = "*") -> list[str]:
        """The names that match the glob ``filter``, sorted."""
        return sorted(name for name in self._entries if fnmatch(name, filter))
