"""Test the best weights of a run again, on the test split or in another split or protocol.

mozoo evaluate run=outputs/<run>                                # the test split
mozoo evaluate run=outputs/<run> split=val
mozoo evaluate run=outputs/<run> protocol=mtan batch_size=2     # averages over batches, as public code
mozoo evaluate run=outputs/<run> data_dir=/data device=cpu
mozoo evaluate run=outputs/<run> preference='{cut: 3}'          # a model that reads one; others count 1
mozoo evaluate run=outputs/<run> task.csv=other.csv             # all rows of another table with labels

Prints a table and writes <run>/evaluation-<split>.json, or evaluation-<split>-<protocol>.json; of another table,
evaluation-<table>.json; with a preference, its numbers end the name. Classes and scales are those of the run. A table that
has changed since training is refused.
trust=true imports the modules of your own that a run names; without it no code of a run folder is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mozoo.command_line import run_command
from mozoo.commands.train import build
from mozoo.program import usage
from mozoo.run_evaluation import evaluate_run


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and evaluate."""
    run_command(partial(evaluate_run, build), arguments, usage("evaluate", __doc__))
