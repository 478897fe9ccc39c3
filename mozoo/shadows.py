"""Files of a user that Python finds in place of the packages that belong to mozoo."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_HOME = Path(__file__).resolve().parent.parent


def check_packages(*names: str) -> None:
    """Raise ImportError if one of the packages or modules is not the one beside mozoo."""
    for name in names:
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # __main__ has none, under whatever name it was stored
            continue
        found = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
        if found is None:
            raise ImportError(
                f"mozoo needs {name!r}, which lies beside it in {_HOME}, and Python does not find it; install mozoo again"
            )
        path = Path(found).resolve()
        if _HOME not in path.parents:
            own = path.parent if path.name == "__init__.py" else path
            raise ImportError(
                f"mozoo needs its own {name!r}, and Python finds {own} in its place; rename that, or move it to another folder "
                "than the script"
            )
