"""Comparison with torchjd and LibMTL: exported names, and times that were measured.

python lab/peers.py              # count in the packages that are installed, write results/peers.csv and docs/peers.md
python lab/peers.py --collect    # only write the page again

Packages are read, not imported: LibMTL of PyPI fails to import with a recent torchvision. Times are those of
lab/benchmark_balancers.py.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import command, documents, ours, results
from lab.benchmark_balancers import RIVALS, read
from lab.solvers import AGGREGATORS
from mozoo.environment import git_commit

PEERS: Mapping[str, Mapping[str, Any]] = results.read_yaml(Path(__file__).with_suffix(".yaml"))
FILE = results.RESULTS / "peers.csv"
NETWORKS = {"steps": "ResNet-18", "small": "MLP", "lenet": "LeNet"}
COUNTS = ("3", "10", "40", "100")  # objectives, in the table of solvers


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, and write the page."""
    parser = command.parser(__doc__)
    parser.add_argument("--collect", action="store_true", help="count nothing")
    if not parser.parse_args(arguments).collect:
        missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
        if missing:
            sys.exit(f"error: install {' and '.join(missing)} first: pip install --no-deps {' '.join(missing)}")
        results.write_rows(FILE, [*counted()])
    documents.write("peers", BLOCKS)


def counted() -> Iterator[dict[str, str]]:
    """A row per library and kind of names; a weighting counts as its aggregator."""
    git = git_commit() or "unknown"
    for library, peer in PEERS.items():
        row = {"library": library, "version": importlib.metadata.version(library)}
        for kind, modules in peer["packages"].items():
            listed = {name for module in modules for name in exported(module)} - {*peer["bases"]}
            names = sorted({name.removesuffix("Weighting") for name in listed}, key=str.lower)
            yield {**row, "kind": kind, "names": " ".join(names), "imports": imports(modules), "git": git}


def exported(module: str) -> list[str]:
    """``__all__`` of a module that is not imported.

    Raises ValueError if the module has no such list of strings.
    """
    package, _, part = module.partition(".")
    spec = importlib.util.find_spec(package)
    folder = Path(spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else "")
    for node in ast.parse((folder / part / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise ValueError(f"{module} has no __all__")


def own() -> dict[str, list[str]]:
    """Names that mozoo registers, without its adapter for torchjd."""
    return {"methods": [name for name in ours.balancers() if name != "torchjd"], "models": ours.models()}


def imports(modules: Sequence[str]) -> str:
    """``yes``, or the error that an import ends with."""
    done = subprocess.run([sys.executable, "-c", f"import {', '.join(modules)}"], capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else "yes"


# ---- the page --------------------------------------------------------------------------------------------------------


def contents() -> str:
    """Numbers of methods and models."""
    rows = results.read_rows(FILE)
    lines = [["mozoo", "this repository", *(str(len(names)) for names in own().values())]]
    for library in PEERS:
        mine = {row["kind"]: row for row in rows if row["library"] == library}
        numbers = [str(len(mine[kind]["names"].split())) if kind in mine else "none" for kind in own()]
        lines.append([library, mine["methods"]["version"], *numbers])
    return documents.table(["library", "version", "balancing methods", "models"], lines)


def methods() -> str:
    """Methods of the others, by the name here."""
    rows = {row["library"]: row["names"].split() for row in results.read_rows(FILE) if row["kind"] == "methods"}
    there = {library: {name: PEERS[library]["names"][name] for name in rows[library]} for library in PEERS}
    lines, names = [], own()["methods"]
    for name in [*names, ""]:
        cells = [", ".join(other for other, same in each.items() if same == name) for each in there.values()]
        if any(cells):
            lines.append([f"`{name}`" if name else "not here", *cells])
    alone = len(names) - sum(line[0] != "not here" for line in lines)
    return documents.table(["mozoo", *PEERS], lines) + f"\n{alone} methods of mozoo are in neither.\n"


def steps() -> str:
    """Times of steps relative to plain ones: here and there, the best of its modes."""
    lines = []
    for part, network in NETWORKS.items():
        rows = read(part)
        for count in dict.fromkeys(row["objectives"] for row in rows):
            times = {row["variant"]: float(row["to_plain"]) for row in rows if row["objectives"] == count}
            for name, rival in RIVALS.items():
                modes = [time for variant, time in times.items() if variant.startswith(f"torchjd {rival},")]
                if name in times and modes:
                    lines.append([f"{network}, K = {count}", f"`{name}`", f"{times[name]:.2f}", f"{min(modes):.2f}"])
    return documents.table(["model", "method", "mozoo", "torchjd, its fastest mode"], lines)


def memory() -> str:
    """Buffers of the size of all shared parameters beyond a plain step."""
    rows = {row["variant"]: float(row["buffers"]) for row in read("memory")}
    ours = [[f"`{name}`", f"{rows[name]:.1f}"] for name in ("mgda", "upgrad")]
    theirs = [[variant, f"{value:.1f}"] for variant, value in rows.items() if variant.startswith("torchjd")]
    return documents.table(["step, ResNet-18, K = 3", "buffers beyond a plain step"], [*ours, *theirs])


def solvers() -> str:
    """Milliseconds for the weights of a Gramian of full rank: here / there."""
    times = {(row["variant"], row["objectives"]): row["milliseconds"] for row in read("solvers")}
    lines = []
    for name, (rival, _) in AGGREGATORS.items():
        pairs = [(times.get((name, count)), times.get((f"torchjd {rival}", count))) for count in COUNTS]
        if all(theirs for _, theirs in pairs):
            lines.append([f"`{name}`", *(f"{ours} / {theirs}" for ours, theirs in pairs)])
    return documents.table(["method", *(f"K = {count}" for count in COUNTS)], lines)


def unmeasured() -> str:
    """Why a library has no times."""
    failed = [row for row in results.read_rows(FILE) if row["imports"] != "yes"]
    names = dict.fromkeys((row["library"], row["version"], row["imports"]) for row in failed)
    lines = [f"`import {name}` of version {version} ends with `{error}`." for name, version, error in names]
    return " ".join(lines) + "\n" if lines else "Every package that was counted can be imported.\n"


BLOCKS: documents.Blocks = {
    "docs/peers.md": {
        "contents": contents,
        "methods": methods,
        "steps": steps,
        "memory": memory,
        "solvers": solvers,
        "unmeasured": unmeasured,
    }
}


if __name__ == "__main__":
    main()
