"""What a trained model says about pictures or a table of your own, and samples of a GAN.

python scripts/predict.py run=outputs/<run> input=photo.jpg            # a picture; maps as PNG and npy, classes as CSV
python scripts/predict.py run=outputs/<run> input=photos output=found  # every picture of a folder
python scripts/predict.py run=outputs/<run> input=stones.csv           # a table
python scripts/predict.py run=outputs/<run> samples=64 seed=1          # a GAN

run may also be a folder that holds model.safetensors and config.json, such as best/ or a download from a model hub. Without
output, the files go to <run>/predictions/<input>. device=cuda chooses the device. docs/using.md tells what each task reads.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import engine
from engine.command_line import read_options
from engine.prediction import load_predictor
from engine.prediction_files import input_files, write_predictions, write_samples

SHOWN = 10


@dataclass
class Options:
    run: str = MISSING
    input: str | None = None
    output: str | None = None
    samples: int | None = None
    seed: int | None = None
    device: str = "auto"


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict or sample, write files, and print the first rows."""
    with engine.reporting():
        options = read_options(Options, sys.argv[1:] if arguments is None else arguments, __doc__ or "")
        predict(options)


def predict(options: Options) -> None:
    """Raises ConfigError or DataError for what the user can mend."""
    console = Console(soft_wrap=True, highlight=False)
    predictor = load_predictor(Path(options.run), options.device)
    if options.input is None:
        samples, classes = predictor.sample(64 if options.samples is None else options.samples, options.seed or 0)
        folder = Path(options.output or Path(options.run, "predictions", "samples"))
        write_samples(folder, samples, classes)
        console.print(f"{len(samples)} samples in {folder}", markup=False)
        return
    if options.samples is not None or options.seed is not None:
        raise engine.ConfigError("samples and seed are for a model that generates, without input; leave them out")
    source = Path(options.input)
    files = input_files(source)
    folder = Path(options.output or Path(options.run, "predictions", source.resolve().stem))
    rows = write_predictions(folder, source, ((file, predictor.predict(file)) for file in files))
    if rows:
        table = Table(*rows[0])
        for row in rows[:SHOWN]:
            table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
        console.print(table)
    more = f" ({len(rows) - SHOWN} more rows)" if len(rows) > SHOWN else ""
    console.print(f"predictions{more} in {folder}", markup=False)


if __name__ == "__main__":
    main()
