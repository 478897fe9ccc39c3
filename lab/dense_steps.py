"""Time of a training step of dense_vit beside that of dense_resnet18.

python lab/dense_steps.py              # measure, write results/dense_steps.csv and docs/dense.md (minutes)
python lab/dense_steps.py --collect    # only write the document again

The models take turns in one process with one thread: forward pass, plain sum of mean squares of the maps, backward pass, step of AdamW, on
random images of the size and in the batches of their defaults on rooms. Times are those of the processor, so that other
work of the machine counts less.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import command, documents, results, timing
from mozoo.environment import git_commit
from zoo import create_model

FILE = "dense_steps.csv"
#: Label -> model and encoder; ``None``: its default.
MODELS = {
    "`dense_resnet18`": ("dense_resnet18", None),
    "`dense_vit`": ("dense_vit", None),
    "`dense_vit model.encoder=efficientvit_b1`": ("dense_vit", "efficientvit_b1"),
    "`dense_vit model.encoder=resnet18`": ("dense_vit", "resnet18"),
}
IMAGES = (8, 3, 96, 128)
ROUNDS = 12


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write ``results/dense_steps.csv`` and the table."""
    parser = command.parser(__doc__)
    parser.add_argument("--collect", action="store_true", help="measure nothing")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    if not options.collect:
        measure(options.rounds)
    documents.write("dense_steps", BLOCKS)


def measure(rounds: int) -> None:
    """Write the median of each model, in milliseconds of the processor."""
    torch.set_num_threads(1)
    commit = git_commit() or "unknown"
    steps = {label: training_step(name, encoder) for label, (name, encoder) in MODELS.items()}
    medians = timing.medians(timing.take_turns(steps, rounds, "steps", alternate=True), processor=True)
    rows = [
        {
            "model": label,
            "milliseconds": f"{1000 * value:.4g}",
            "rounds": rounds,
            "torch": torch.__version__,
            "git": commit,
        }
        for label, value in medians.items()
    ]
    results.write_rows(results.RESULTS / FILE, rows)


def training_step(name: str, encoder: str | None) -> Callable[[], None]:
    """A step of the model on images that stay the same."""
    torch.manual_seed(0)
    model = create_model(name, **({} if encoder is None else {"encoder": encoder}))
    model = model.to(memory_format=torch.channels_last)
    images = torch.randn(IMAGES).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        sum(values.square().mean() for values in model(images).values()).backward()
        optimizer.step()

    return step


def table() -> str:
    """Milliseconds, and ratios to ``dense_resnet18``."""
    rows = results.read_rows(results.RESULTS / FILE)
    first = float(rows[0]["milliseconds"])
    lines = [
        [row["model"], f"{float(row['milliseconds']):.0f}", f"{float(row['milliseconds']) / first:.2f}"] for row in rows
    ]
    return documents.table(["model", "a step, ms of one core", "beside `dense_resnet18`"], lines)


BLOCKS: documents.Blocks = {"docs/dense.md": {"dense_steps": table}}


if __name__ == "__main__":
    main()
