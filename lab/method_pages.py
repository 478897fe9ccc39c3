"""A page of the site for each method.

Made from docstring and signature, the pages of docs/ and the files in results/.
"""

from __future__ import annotations

import functools
import inspect
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from balancing import Method, RotoGrad, balancer_class, create_balancer
from lab import docstrings, documents, results
from lab.method_tables import Results, finished
from lab.studies import STUDIES

DATA: Mapping[str, Any] = results.read_yaml(Path(__file__).with_suffix(".yaml"))
METHOD_DATA: Mapping[str, Any] = results.read_yaml(Path(__file__).with_name("figures.yaml"))
FAMILIES: Mapping[str, Sequence[str]] = METHOD_DATA["families"]
KINDS = {
    "losses": "loss method",
    "gradients": "Gramian method",
    "jacobians": "Jacobian method",
    "bilevel": "bilevel method",
}
#: Part of balancer_cost.csv -> the step that is measured there.
STEPS = {
    "losses": "ResNet-18, 3 objectives",
    "steps": "ResNet-18, 3 objectives",
    "small": "MLP, {} objectives",
    "lenet": "LeNet, {} objectives",
}
#: Objective -> its targets in the example.
TARGETS = {"kind": "torch.randint(3, (64,))", "price": "torch.rand(64, 1)", "age": "torch.rand(64, 1)"}
_SVG = "{http://www.w3.org/2000/svg}"


def family(name: str) -> str:
    """Of a method: a key of ``FAMILIES``."""
    return next(key for key, names in FAMILIES.items() if name in names)


def page(name: str) -> str:
    """The page in Markdown; links are relative to docs/."""
    words = docstrings.parse(balancer_class(name))
    bullets = section(name).partition("\n- ")
    parts = [f"# `{name}`\n\n{words.summary}", facts(name), formula(words)]
    if picture(name) is not None:
        parts.insert(1, f"![Two gradients and the direction of {name}](methods/{name}.svg){{ .panel }}")
    parts.append("## When to use it\n\n- " + bullets[2].strip() if bullets[1] else "")
    parts += [f"## Notes\n\n{words.notes}" if words.notes else "", f"## Example\n\n{code_block(name)}", options(name)]
    parts += [cost(name), study_rows(name), api(name)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def section(name: str) -> str:
    """What the page of the family says on the method. Raises ValueError if there is nothing."""
    text = (results.ROOT / f"docs/balancing_{family(name)}.md").read_text(encoding="utf-8")
    found = re.search(rf"^##+ `{name}`\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError(f"docs/balancing_{family(name)}.md has no section `{name}`")
    return found[1].strip().replace("](#", f"](balancing_{family(name)}.md#")


def facts(name: str) -> str:
    """The method's row of the table in docs/balancing.md, upright."""
    page = results.ROOT / "docs/balancing.md"
    table, text = documents.block(page, "figures", "chooser").splitlines(), page.read_text(encoding="utf-8")
    head = [cell.strip() for cell in table[0].strip("|").split("|")]
    (row,) = [line for line in table if line.startswith(f"| [`{name}`]")]
    cells = dict(zip(head, (cell.strip() for cell in row.strip("| ").split("|")), strict=True))
    about = KINDS[family(name)]
    rows = [["kind", f"[{about}](balancing_{family(name)}.md#{name})"]]
    rows += [
        [f"[{key}](balancing.md#every-method)", spelled(key, value, text)]
        for key, value in cells.items()
        if key != "method"
    ]
    return documents.table(["property", "value"], rows)


def spelled(key: str, value: str, text: str) -> str:
    """A cell of that table with what the page's ``text`` says that it means, if it does."""
    inputs = re.search(rf"^\| `{value}` \| (.*?) \|", text, re.MULTILINE) if key == "needs" else None
    legend = re.search(rf"^- \*\*{key}\*\*: (.*?)(?=^- \*\*|^$)", text, re.DOTALL | re.MULTILINE)
    meaning = re.search(rf"`{re.escape(value)}`: ([^.]*)[.;]", " ".join(legend[1].split())) if legend else None
    found = inputs or meaning
    return f"{value}: {found[1]}" if found else value


def formula(words: docstrings.Docstring) -> str:
    """Formulas and their source; what begins a line in the docstring does so here."""
    text = words.formula or words.summary
    lines = text.split("\n")
    for index, (line, following) in enumerate(pairwise(lines)):
        cited = re.search(r', "[A-Z]', following) and line.endswith(".")
        if line and (following.startswith("`") or cited or (line.startswith("`") and line.endswith("."))):
            lines[index] += "\\"
    return '## Formula and source\n\n<div class="formula" markdown>\n\n' + "\n".join(lines) + "\n\n</div>"


def options(name: str) -> str:
    """Own options, and which of the shared ones have a meaning."""
    cls = balancer_class(name)
    own = docstrings.signature_table(cls, skip=("objectives",))
    allowed = [key for key in DATA["options"] if accepts(name, key)]
    refused = [key for key in DATA["options"] if key not in allowed]
    shared = "[Shared options](balancing.md#options): " + ", ".join(f"`{key}`" for key in allowed) + "."
    if refused:
        shared += " Without meaning here, and refused: " + ", ".join(f"`{key}`" for key in refused) + "."
    return f"## Options\n\n{own or 'None of its own.'}\n\n{shared}"


@functools.cache
def accepts(name: str, option: str) -> bool:
    """Whether the method takes this shared option."""
    arguments = {**DATA["arguments"].get(name, {}), option: DATA["options"][option]}
    try:
        create_balancer(name, objectives(name), **arguments)
    except (TypeError, ValueError):
        return False
    return True


def objectives(name: str) -> tuple[str, ...]:
    """Names of the losses in the example."""
    return ("kind", "price", "age") if name in METHOD_DATA["three"] else ("kind", "price")


# ---- the example -----------------------------------------------------------------------------------------------------


def code_block(name: str) -> str:
    """The example as Markdown, and the command."""
    command = " ".join(["python train.py", f"balancer={name}", *DATA["words"].get(name, ())])
    two = name not in METHOD_DATA["three"]  # the default task has as many objectives
    shell = f"\n\n```bash\n{command}\n```" if two else ""
    return f"```python\n{example(name)}```{shell}"


def example(name: str) -> str:
    """A script that trains a small model with the method."""
    names, given = objectives(name), DATA["arguments"].get(name, {})
    balancer = create_balancer(name, names, **given)
    learned, bilevel = any(True for _ in balancer.parameters()), family(name) == "bilevel"
    turns = isinstance(balancer, RotoGrad)
    epochs = ".epoch" in inspect.getsource(inspect.getmodule(type(balancer)) or type(balancer))
    part = "[part]" if bilevel else ""
    more = ", part" if bilevel else ", features" if turns else ""
    listed = ", ".join(f'"{each}"' for each in names)
    options = "".join(f", {key}={value!r}" for key, value in given.items()).replace("'", '"')
    lines = ["import torch", "from torch import nn", "from torch.nn.functional import cross_entropy, mse_loss", ""]
    lines += [f"from balancing import {'Rotations, ' * turns}create_balancer", ""]
    lines += ["x = torch.randn(64, 8)", f"{', '.join(names)} = {', '.join(TARGETS[each] for each in names)}"]
    lines += ["model = nn.ModuleDict({", '    "trunk": nn.Sequential(nn.Linear(8, 32), nn.Tanh()),']
    lines += [f'    "{each}": nn.Linear(32, {3 if each == "kind" else 1}),' for each in names] + ["})"]
    lines += [f"objectives = ({listed})", f'balancer = create_balancer("{name}", objectives{options})']
    lines += ['model["rotations"] = Rotations(objectives, 32)'] * turns
    lines += ["optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)"]
    lines += ["own = torch.optim.Adam(balancer.parameters(), lr=0.02)  # without weight decay"] * learned
    lines += ["train, other = slice(0, 32), slice(32, 64)  # rows of the batch"] * bilevel
    lines += [
        "",
        "",
        f"def losses(net{more}):",
        '    z = net["rotations"].turned(features)' if turns else f'    z = net["trunk"](x{part})',
        "    return {",
    ]
    for each in names:
        criterion = "cross_entropy" if each == "kind" else "mse_loss"
        read = f'z["{each}"]' if turns else "z"
        lines.append(f'        "{each}": {criterion}(net["{each}"]({read}), {each}{part}),')
    lines += ["    }", "", ""]
    step = ["optimizer.zero_grad()", *["own.zero_grad()"] * learned]
    if bilevel:
        closures = ("train", "other")
        step += ["report = balancer.meta_backward(", "    model,"]
        step += [*(f"    lambda net: losses(net, {each})," for each in closures), "    lr=1e-3,", ")"]
    elif turns:
        step += ['features = model["rotations"](model["trunk"](x))  # z, and a rotation for each head']
        step += ["report = balancer.backward(losses(model, features), features=features)"]
    else:
        step += ["report = balancer.backward(losses(model))"]
    step += ["optimizer.step()"]
    step += ["with torch.no_grad():", "    balancer.observe(losses(model))"] * balancer.observes
    step += ["own.step()"] * learned
    if epochs:
        lines += ["for epoch in range(5):", "    for step in range(4):", *(f"        {line}" for line in step)]
        lines += ["    balancer.next_epoch()"]
    else:
        lines += ["for step in range(20):", *(f"    {line}" for line in step)]
    return "\n".join([*lines, "print(report.as_dict())"]) + "\n"


# ---- measurements ----------------------------------------------------------------------------------------------------


def cost(name: str) -> str:
    """Time of a step relative to that of the summed losses, from balancer_cost.csv."""
    rows = [
        [STEPS[row["part"]].format(row["objectives"]), f"{float(row['to_plain']):.2f}"]
        for row in results.read_rows(results.RESULTS / "balancer_cost.csv")
        if row["part"] in STEPS and row["variant"] == name and row["to_plain"]
    ]
    if not rows:
        return "## Cost\n\nNot measured; the table above has the passes of a step."
    table = documents.table(["model", "time of a step, relative to the summed losses"], rows)
    return f"## Cost\n\n{table}\n[How it was measured](cost.md)."


def study_rows(name: str) -> str:
    """delta-m and rank in each study that has the method."""
    rows = [study_row(study)[name] for study in STUDIES if name in study_row(study)]
    if not rows:
        return "## Results\n\nNot part of the [comparison of methods](results.md)."
    head = ["study", "learning rate", "delta-m, %", "mean rank", "delta-m of `sum`"]
    return (
        f"## Results\n\n{documents.table(head, rows)}\ndelta-m: mean relative loss of quality against one model per "
        "objective, or `sum` where one objective alone has no solution; negative is better; intervals are 95\u00a0% over seeds. "
        "[All tables](results.md)."
    )


@functools.cache
def study_row(study: str) -> dict[str, list[str]]:
    """Method -> its row in one study; none before it is finished."""
    if not finished(study):
        return {}
    outcome = Results(study)
    ranked = [*outcome.compared, outcome.rival]
    ranks, plain = outcome.ranks(ranked), outcome.delta("sum").text(1)
    return {
        name: [
            f"[{study}](results.md#{study})",
            f"{outcome.rates[name]:g}",
            outcome.delta(name).text(1),
            f"{ranks[name]:.1f}",
            plain,
        ]
        for name in ranked
        if name in outcome.study.methods
    }


# ---- picture and reference -------------------------------------------------------------------------------------------


@functools.cache
def panels(name: str) -> dict[str, ET.Element]:
    """Method -> its panel in the picture of a family."""
    root = ET.parse(results.RESULTS / f"arrows_{name}.svg").getroot()
    every = [group for group in root.iter(f"{_SVG}g") if group.get("id", "").startswith("axes_")]
    return {"".join(text.itertext()): group for group in every for text in group.iter(f"{_SVG}text")}


def picture(name: str) -> str | None:
    """The panel of a method as an SVG; None if the picture of its family has none."""
    kind = family(name)
    group = panels(kind).get(name) if (results.RESULTS / f"arrows_{kind}.svg").is_file() else None
    if group is None:
        return None
    ET.register_namespace("", _SVG[1:-1])
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ET.parse(results.RESULTS / f"arrows_{kind}.svg").getroot()
    frame = next(path for path in group.iter(f"{_SVG}path"))
    numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", frame.get("d", ""))]
    (left, right), (top, bottom) = [(min(axis), max(axis)) for axis in (numbers[::2], numbers[1::2])]
    margin, above = 4.0, 36.0
    width, height = right - left + 2 * margin, bottom - top + above + margin
    small = ET.Element(f"{_SVG}svg", {"version": "1.1", "width": f"{2 * width:.0f}pt", "height": f"{2 * height:.0f}pt"})
    small.set("viewBox", f"{left - margin:g} {top - above:g} {width:g} {height:g}")
    small.extend([*root.findall(f"{_SVG}defs"), *root.findall(f"{_SVG}style"), group])
    wanted = set(re.findall(r"url\(#([^)]+)\)", ET.tostring(small, encoding="unicode")))
    small.extend(clip for clip in root.iter(f"{_SVG}defs") if wanted & {part.get("id") for part in clip.iter()})
    return ET.tostring(small, encoding="unicode")


def api(name: str) -> str:
    """Where mkdocstrings puts the class."""
    target = balancer_class(name)
    public = target.__name__ if isinstance(target, type) and issubclass(target, Method) else name
    return (
        f"## API\n\n::: balancing.{public}\n    options:\n      heading_level: 3\n      show_docstring_description: false\n"
        "      show_docstring_parameters: false\n      extra: {whole_source: true}\n"
    )
