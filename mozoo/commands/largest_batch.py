"""Search for the largest batch that fits, for any model, task and balancer as for train.py.

mozoo largest_batch model=dense_resnet18 trainer.precision=bf16 balancer=pcgrad
mozoo largest_batch memory=4 model=shared_trunk        # GiB that may be used; on the CPU half of what is free

Two training steps are taken with every size. Sizes are doubled until one does not fit, or holds every training sample; then the
limit is closed in on, to a multiple of 8 (times trainer.grad_accum_steps) within 2 %. On CUDA a size does not fit if the device runs
out of memory, on the CPU if the process grows by more than `memory`, model, data and optimizer included. What is recommended
leaves a tenth of the memory free.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mozoo.arguments import ConfigError
from mozoo.batch_search import GIB, search
from mozoo.command_line import reporting
from mozoo.commands.train import build, train_step
from mozoo.config import compose
from mozoo.program import program, usage
from mozoo.trust import check_config_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, search, and return the recommended size."""
    parser = argparse.ArgumentParser(
        program("largest_batch"),
        description=usage("largest_batch", __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="memory=GIB, or as for train.py")
    parser.add_argument(
        "--config-dir", "-cd", type=Path, metavar="FOLDER", help="more configuration files, as for train.py"
    )
    options = parser.parse_args(arguments)
    words = options.overrides
    with reporting():
        if options.config_dir is not None and "trust=true" not in words:
            check_config_folder(options.config_dir)
        limits = [word.removeprefix("memory=") for word in words if word.startswith("memory=")]
        config = compose([word for word in words if not word.startswith("memory=")], options.config_dir)
        return search(config, _as_bytes(limits[-1]) if limits else None, build, train_step)
    raise AssertionError("reporting ends the process")


def _as_bytes(text: str) -> int:
    try:
        limit = int(float(text) * GIB)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise ConfigError(f"memory is a number of GiB greater than 0, got {text!r}")
    return limit
