"""A page of the site for each model, and lists of what the packages offer."""

from __future__ import annotations

import inspect
import re
import textwrap
from types import ModuleType
from typing import Any

from lab import docstrings, documents, results
from tasks import list_tasks
from tasks.registry import task_arguments, task_class
from zoo import model_entrypoint, model_info

_ROW = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \(\[page\]\(docs/([^)]+)\)\)", re.MULTILINE)


def page(name: str) -> str:
    """The page in Markdown; links are relative to docs/."""
    info, build = model_info(name), model_entrypoint(name)
    rows = [["inputs", info.inputs], ["objectives", info.objectives]]
    rows += [["default task", f"[`{info.default_task}`](reference/task_names.md#{info.default_task})"]]
    rows += [
        ["origin", info.origin],
        ["results and diagram", f"[{(where := written(name)).partition('#')[0]}]({where})"],
    ]
    parts = [
        f"# `{name}`\n\n{info.summary[0].upper()}{info.summary[1:]}.",
        documents.table(["property", "value"], rows),
        f"## Train\n\n{commands(name)}",
    ]
    if trained := weights(name):
        parts.append(f"## Trained weights\n\n{trained}")
    table = docstrings.signature_table(build, words=docstrings.meanings(build))
    parts += [f"## Parameters\n\n{table}", configuration(name), description(build), api(build)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def written(name: str) -> str:
    """The page of docs/ on this model, by the README's table.

    Raises ValueError if it is not there.
    """
    for names, target in _ROW.findall((results.ROOT / "README.md").read_text(encoding="utf-8")):
        if f"`{name}`" in names:
            return str(target)
    raise ValueError(f"README.md has no row with a page for the model `{name}`")


def commands(name: str) -> str:
    """How to train the model."""
    return f"```bash\npython train.py model={name}\npython train.py model={name} balancer=pcgrad\n```"


def weights(name: str) -> str:
    """Table of trained weights of this model and code that loads them; empty without any."""
    table = documents.block(results.ROOT / "docs/weights.md", "train_weights", "weights").splitlines()
    rows = [line for line in table if line.startswith(f"| `{name}.")]
    if not rows:
        return ""
    key = re.findall(rf"`{name}\.(\w+)`", rows[0])[0]
    code = f'from zoo import create_model\n\nmodel = create_model("{name}", pretrained="{key}").eval()'
    return "\n".join([*table[:2], *rows, "", "```python", code, "```", "", "[More about weights](weights.md)."])


def model_class(build: Any) -> type:
    """The class of a model: of a variant, the one that its docstring names.

    Raises ValueError if it names none.
    """
    if inspect.isclass(build):
        return build
    named = re.findall(r":class:`(\w+)`", build.__doc__ or "")
    for name in named:
        if inspect.isclass(cls := getattr(inspect.getmodule(build), name, None)):
            return cls
    raise ValueError(f"{build.__qualname__}: the docstring must name the model's class, as :class:`Name`, got {named}")


def configuration(name: str) -> str:
    """The model's YAML."""
    path = results.ROOT / f"configs/model/{name}.yaml"
    return f"## Configuration\n\n`configs/model/{name}.yaml`:\n\n```yaml\n{path.read_text(encoding='utf-8')}```"


def description(build: Any) -> str:
    """The docstring of the module, with its diagram."""
    text = inspect.getdoc(inspect.getmodule(build)) or ""
    return f"## How it works\n\n{docstrings.markdown(fenced(text))}"


def fenced(text: str) -> str:
    """Indented blocks of a docstring as fenced ones."""
    parts = []
    for paragraph in re.split(r"\n\n(?=\S)", text):
        head, gap, block = paragraph.partition("\n\n")
        parts.append(f"{head}\n\n```text\n{textwrap.dedent(block).rstrip()}\n```" if gap else head)
    return "\n\n".join(parts)


def api(build: Any) -> str:
    """Where mkdocstrings puts the class."""
    cls = model_class(build)
    return (
        f"## API\n\n::: {cls.__module__}.{cls.__qualname__}\n    options:\n      heading_level: 3\n"
        "      show_docstring_parameters: false\n"
    )


# ---- lists -----------------------------------------------------------------------------------------------------------


def task_list() -> str:
    """Every task with its arguments."""
    parts = [
        "# Every task\n\n`python train.py task=<name>`, or `create_task(name, ...)`. What a task is: [adding a model, a task or a "
        "balancer](adding.md)."
    ]
    for name in list_tasks():
        cls = task_class(name)
        words = docstrings.parse(cls)
        table = docstrings.signature_table(cls, words=docstrings.meanings(cls)) if task_arguments(name) else ""
        parts.append(f"## `{name}`\n\n{words.summary}\n\n{fenced(words.formula)}\n\n{table}".strip())
    return "\n\n".join(parts) + "\n"


def reference(package: ModuleType, title: str, without: frozenset[str] = frozenset()) -> str:
    """The public names of a package, each for mkdocstrings."""
    name = package.__name__
    public = getattr(package, "__all__", None) or [key for key in vars(package) if not key.startswith("_")]
    shown = [key for key in public if key not in without and described(getattr(package, key), name)]
    first = docstrings.markdown((inspect.getdoc(package) or "").partition("\n\n")[0])
    return f"# {title}\n\n{first}\n\n" + "\n\n".join(f"::: {name}.{key}" for key in shown) + "\n"


def described(item: Any, package: str) -> bool:
    """Whether it is a class or function of this repository with a docstring."""
    ours = str(getattr(item, "__module__", "")).partition(".")[0] in (package, "mozoo", "balancing", "zoo", "tasks")
    return ours and (inspect.isclass(item) or inspect.isfunction(item)) and bool(item.__doc__)
