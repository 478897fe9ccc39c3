"""Tables and figures that follow from results/*.csv and the code alone, collected again.

python lab/collect.py            # write them
python lab/collect.py --check    # write nothing; exit code 1 if a table or a figure would change by a byte

Figures of runs, which are not in the repository, are left out: lab/tables.py and lab/benchmark_methods.py draw them. The
bytes of a figure may depend on the version of matplotlib.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import (
    benchmark_balancers,
    benchmark_train,
    command,
    composition_baseline,
    dense_steps,
    documents,
    figures,
    fronts,
    method_tables,
    options,
    peers,
    published_order,
    reproduce,
    results,
    tables,
    train_weights,
    which,
)
from lab.studies import STUDIES

#: Script -> its blocks of documents.
BLOCKS: dict[str, documents.Blocks] = {
    "benchmark_balancers": benchmark_balancers.BLOCKS,
    "benchmark_methods": method_tables.BLOCKS,
    "benchmark_train": benchmark_train.BLOCKS,
    "composition_baseline": composition_baseline.BLOCKS,
    "dense_steps": dense_steps.BLOCKS,
    "figures": figures.BLOCKS,
    "fronts": fronts.BLOCKS,
    "peers": peers.BLOCKS,
    "options": {"docs/trainer.md": options.blocks()},
    "published_order": published_order.BLOCKS,
    "reproduce": reproduce.BLOCKS,
    "tables": tables.blocks(tables.EXPERIMENTS),
    "train_weights": train_weights.BLOCKS,
    "which": which.BLOCKS,
}
FIGURES: results.Figures = {
    **benchmark_balancers.FIGURES,
    **composition_baseline.FIGURES,
    **figures.FIGURES,
    **fronts.FIGURES,
    **{
        file: draw
        for name in STUDIES
        if method_tables.finished(name)
        for file, draw in method_tables.figures(name).items()
    },
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write everything, or compare everything."""
    parser = command.parser(__doc__)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    if not parser.parse_args(arguments).check:
        for script, blocks in BLOCKS.items():
            documents.write(script, blocks)
        results.write_figures(FIGURES)
        return
    names = [*block_names(), *FIGURES]
    changed = [name for name in names if not is_current(name)]
    print(
        f"{len(names) - len(changed)} of {len(names)} tables and figures are the same; left out: {', '.join(of_runs())}"
    )
    if changed:
        sys.exit(f"error: would change: {', '.join(changed)}")


def block_names() -> list[str]:
    """``document: script: block`` of every generated block."""
    return [f"{page}: {script}: {name}" for script, pages in BLOCKS.items() for page in pages for name in pages[page]]


def is_current(name: str) -> bool:
    """Whether a block, or a figure in results/, is byte for byte what its script writes now."""
    if name in FIGURES:
        kept = results.RESULTS / name
        with tempfile.TemporaryDirectory() as folder:
            FIGURES[name](Path(folder, name))
            return kept.is_file() and Path(folder, name).read_bytes() == kept.read_bytes()
    page, script, block = name.split(": ")
    return documents.block(results.ROOT / page, script, block) == BLOCKS[script][page][block]()


def of_runs() -> list[str]:
    """Figures in results/ that cannot be drawn without run folders."""
    return sorted(file.name for file in results.RESULTS.iterdir() if file.suffix != ".csv" and file.name not in FIGURES)


if __name__ == "__main__":
    main()
