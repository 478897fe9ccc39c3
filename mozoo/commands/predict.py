"""Predictions of a trained model for pictures or a table of your own, and samples of a GAN.

mozoo predict run=outputs/<run> input=photo.jpg            # a picture; maps as PNG and npy, classes as CSV
mozoo predict run=outputs/<run> input=photos output=found  # every picture of a folder
mozoo predict run=outputs/<run> input=photo.jpg size=model # maps in the size of training, not of the picture
mozoo predict run=outputs/<run> input=stones.csv           # a table
mozoo predict run=outputs/<run> samples=64 seed=1          # a GAN
mozoo predict run=outputs/<run> input=stones.csv preference='{cut: 3, price: 1}'   # a model that reads one

run may also be a folder that holds model.safetensors and config.json, such as best/ or a download from a model hub. Without
output, the files go to <run>/predictions/<input>. device=cuda chooses the device. docs/using.md lists what each task reads.
trust=true imports the modules of your own that a run names; without it no code of a run folder is run.
"""

from __future__ import annotations

from collections.abc import Sequence

from mozoo.command_line import run_command
from mozoo.inference import predict
from mozoo.program import usage


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and predict."""
    run_command(predict, arguments, usage("predict", __doc__))
