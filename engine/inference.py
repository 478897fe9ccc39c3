"""Predictions for a user's files, or samples of a GAN, as files and as printed rows."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from engine.arguments import ConfigError
from engine.prediction import load_predictor
from engine.prediction_files import input_files, write_predictions, write_samples

_SHOWN = 10  # rows that are printed


def predict(
    run: str,
    input: str | None = None,
    output: str | None = None,
    samples: int | None = None,
    seed: int | None = None,
    device: str = "auto",
) -> None:
    """Predict or sample, write files and print the first rows. Raises ConfigError or DataError."""
    console = Console(soft_wrap=True, highlight=False)
    predictor = load_predictor(Path(run), device)
    if input is None:
        generated, classes = predictor.sample(64 if samples is None else samples, seed or 0)
        folder = Path(output or Path(run, "predictions", "samples"))
        write_samples(folder, generated, classes)
        console.print(f"{len(generated)} samples in {folder}", markup=False)
        return
    if samples is not None or seed is not None:
        raise ConfigError("samples and seed are for a model that generates, without input; leave them out")
    source = Path(input)
    files = input_files(source)
    folder = Path(output or Path(run, "predictions", source.resolve().stem))
    rows = write_predictions(folder, source, ((file, predictor.predict(file)) for file in files))
    if rows:
        table = Table(*rows[0])
        for row in rows[:_SHOWN]:
            table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
        console.print(table)
    more = f" ({len(rows) - _SHOWN} more rows)" if len(rows) > _SHOWN else ""
    console.print(f"predictions{more} in {folder}", markup=False)
