"""Errors on QM9 of what is known from the composition alone, beside those of molecules.

python lab/composition_baseline.py              # fit, write results/ and docs/molecules.md (seconds; needs scikit-learn and qm9pack)
python lab/composition_baseline.py --collect    # only write the document again

Both predict from the numbers of H, C, N, O and F: the mean of the training molecules, which predicts the same for all, and
scikit-learn's HistGradientBoostingRegressor with its defaults, one for each property. They have the split of the task's
defaults, as model=molecules has.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import command, documents, results
from lab.figure_style import WIDTH
from lab.reproductions.published_tables import read
from mozoo.environment import git_commit
from tasks.molecule_files import PROPERTIES
from tasks.qm9 import QM9, UNITS, MoleculeData

FILE = "molecules_composition.csv"
ELEMENTS = (1, 6, 7, 8, 9)
COLORS = {"composition alone, boosted trees": "#94a3b8", "molecules": "#d97706"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, write ``results/molecules_composition.csv``, the figure and the table."""
    parser = command.parser(__doc__)
    parser.add_argument("--collect", action="store_true", help="fit nothing")
    parser.add_argument("--data-dir", default="data", help="folder of data sets")
    options = parser.parse_args(arguments)
    if not options.collect:
        fit(options.data_dir)
    documents.write("composition_baseline", BLOCKS)
    results.write_figures(FIGURES)


def fit(data_dir: str) -> None:
    """Measure both models on the test split."""
    import sklearn
    from sklearn.ensemble import HistGradientBoostingRegressor

    task, commit = QM9(), git_commit() or "unknown"
    train, _, test = task.splits(data_dir)
    assert isinstance(train, MoleculeData)
    assert isinstance(test, MoleculeData)
    inputs, tested = composition(train), composition(test)
    rows = []
    for objective, unit, deviation in zip(task.objectives, UNITS, task.state_dict()["std"], strict=True):
        labels, truth = (part.targets[objective.name][:, 0].double().numpy() for part in (train, test))
        model = HistGradientBoostingRegressor(random_state=0).fit(inputs, labels)
        errors = {"constant": np.abs(truth), "boosted": np.abs(model.predict(tested) - truth)}
        measured = {name: f"{error.mean() * deviation:.6g}" for name, error in errors.items()}
        rows.append(
            {"property": objective.name, "unit": unit, **measured, "scikit-learn": sklearn.__version__, "git": commit}
        )
    results.write_rows(results.RESULTS / FILE, rows)


def composition(part: MoleculeData) -> np.ndarray:
    """(N, 5) numbers of atoms of each element."""
    return np.stack([(part.inputs[0] == number).sum(1).numpy() for number in ELEMENTS], axis=1)


def errors() -> dict[str, list[float]]:
    """Model -> mean absolute errors in the order of the properties."""
    fitted = {row["property"]: row for row in results.read_rows(results.RESULTS / FILE)}
    trained = results.read_rows(results.RESULTS / "molecules.csv")[0]
    published = read()["qm9"]
    return {
        "the training mean": [float(fitted[name]["constant"]) for name in PROPERTIES],
        "composition alone, boosted trees": [float(fitted[name]["boosted"]) for name in PROPERTIES],
        "`molecules`": [float(trained[f"{name}, {unit}"]) for name, unit in zip(PROPERTIES, UNITS, strict=True)],
        "published, equal weights": published["rows"]["LS"],
        "published, a model for each": published["baseline"],
    }


def table() -> str:
    """Errors of each property in its unit."""
    columns = errors()
    lines = [
        [
            f"{name}, {unit}",
            *(f"{values[row]:.3g}" if values[row] < 100 else f"{values[row]:,.0f}" for values in columns.values()),
        ]
        for row, (name, unit) in enumerate(zip(PROPERTIES, UNITS, strict=True))
    ]
    return documents.table(["mean absolute error", *columns], lines)


def picture() -> Figure:
    """Errors as shares of that of the training mean."""
    columns = errors()
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    for number, (label, color) in enumerate(COLORS.items()):
        values = columns.get(label) or columns[f"`{label}`"]
        shares = [value / constant for value, constant in zip(values, columns["the training mean"], strict=True)]
        bars = axes.bar(np.arange(len(PROPERTIES)) + 0.4 * (number - 0.5), shares, 0.38, color=color, label=label)
        axes.bar_label(bars, [f"{share:.2f}" for share in shares], padding=1)
    axes.set_xticks(range(len(PROPERTIES)), PROPERTIES)
    axes.set(ylabel="share of the error of the training mean", ylim=(0, 1))
    axes.set_axisbelow(True)
    axes.grid(axis="y")
    axes.legend()
    return figure


BLOCKS: documents.Blocks = {"docs/molecules.md": {"molecules_errors": table}}
FIGURES: results.Figures = {"molecules.svg": partial(results.save_figure, salt="molecules", draw=picture)}


if __name__ == "__main__":
    main()
