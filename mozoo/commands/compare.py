"""Many runs side by side: results with intervals, delta-m, mean rank, Pareto front and cost.

mozoo compare outputs                                    # every finished run below outputs/
mozoo compare outputs/*-diamonds-* --baseline realtime   # relative to the runs of one balancer; default: sum
mozoo compare outputs/dense-rooms-* --single-task        # relative to balancer=single, objective by objective
mozoo compare outputs --metrics cut/accuracy price/r2    # what delta-m, rank and front are made of

Writes comparison.html, comparison.md and comparison.csv. docs/comparing.md describes each column.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mozoo.arguments import ConfigError
from mozoo.comparison.output import compare_runs
from mozoo.comparison.runs import ComparisonError
from mozoo.comparison.section import Choices
from mozoo.program import program, usage


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and compare."""
    parser = argparse.ArgumentParser(
        program("compare"), description=usage("compare", __doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="FOLDER", help="run folders, folders that contain some, or globs")
    parser.add_argument("--baseline", metavar="NAME", help="balancer, or label of a set, that others are relative to")
    parser.add_argument("--single-task", action="store_true", help="the baseline are the runs of balancer=single")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="results to score, such as cut/accuracy")
    parser.add_argument("--out", type=Path, default=Path("comparison"), metavar="FOLDER", help="default: comparison")
    options = parser.parse_args(arguments)
    if options.baseline and options.single_task:
        parser.error("--baseline and --single-task exclude each other")
    try:
        compare_runs(options.runs, options.out, Choices(options.baseline, options.single_task, options.metrics))
    except (ComparisonError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
