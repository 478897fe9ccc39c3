"""Files in configs/ and tables in docs/trainer.md, written from mozoo/config.py.

python lab/options.py        # writes them; change the declaration there, not these files
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import command, documents, results
from mozoo import tools
from mozoo.config import CONFIG_DIR, Config
from mozoo.options import bounds

PAGE = CONFIG_DIR.parent / "docs" / "trainer.md"
#: File in configs/ -> its first line, and the values that differ from the declared defaults.
PRESETS: Mapping[str, tuple[str, Mapping[str, Any]]] = results.read_yaml(Path(__file__).with_suffix(".yaml"))


def sections() -> dict[str, tuple[Field[Any], ...]]:
    """The options of each group of the configuration that is a dataclass."""
    groups = vars(Config())
    return {name: fields(group) for name, group in groups.items() if is_dataclass(group)}


def yaml_file(options: Sequence[Field[Any]], title: str, values: Mapping[str, Any]) -> str:
    """Content of a file in configs/: every option with its value, and its help as a comment."""
    lines = {}
    for item in options:
        choices = {rule: limit for rule, limit in item.metadata["rules"].items() if rule == "choices"}
        help = item.metadata["help"] + (f" ({bounds(choices)})" if choices else "")
        lines[f"{item.name}: {_value(values.get(item.name, item.default))}"] = help
    width = max(map(len, lines))
    comments = [f"# {title}", "# Written by lab/options.py from mozoo/config.py; change it there."]
    return "\n".join([*comments, *(f"{line:{width}}  # {help}" for line, help in lines.items())]) + "\n"


def table(group: str, options: Sequence[Field[Any]]) -> str:
    """The options of a group in Markdown."""
    rows = []
    for item in options:
        kind, help = str(item.type).replace(" | None", " or null"), item.metadata["help"].replace("<", "\\<")
        cells = f"`{group}.{item.name}`", kind, f"`{_value(item.default)}`", bounds(item.metadata["rules"]), help
        rows.append(cells)
    return documents.table(("option", "type", "default", "bounds", "meaning"), rows)


def blocks() -> dict[str, Callable[[], str]]:
    """The tables of docs/trainer.md."""
    return {f"{name}_options": partial(table, name, options) for name, options in sections().items()}


def write(folder: Path, page: Path) -> None:
    """Write all files below ``folder``, and the tables in the document ``page``."""
    declared = sections()
    for name, (title, values) in PRESETS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tools.write_text(folder / f"{name}.yaml", yaml_file(declared[name.partition("/")[0]], title, values))
    documents.fill_in(page, "options", {name: make() for name, make in blocks().items()})


def _value(value: Any) -> str:
    return yaml.safe_dump(value).removesuffix("\n").removesuffix("\n...")


if __name__ == "__main__":
    command.parser(__doc__).parse_args()
    write(CONFIG_DIR, PAGE)
