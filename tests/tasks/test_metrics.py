"""Directions of metrics; nothing heavy is imported before one is made."""

import subprocess
import sys
from pathlib import Path

import pytest

import tasks

ROOT = Path(__file__).resolve().parents[2]
NEEDED = {"image_table": {"csv": "labels.csv", "classification": ["kind"], "regression": ["size"]}}


@pytest.mark.parametrize("name", tasks.list_tasks())
def test_directions_are_those_of_the_metrics(name):
    for objective in tasks.create_task(name, **NEEDED.get(name, {})).objectives:
        for key, spec in objective.metrics.items():
            metric = spec.make()
            assert spec.direction is metric.higher_is_better, (objective.name, key)
            assert spec.make() is not metric


def test_a_run_of_diamonds_is_built_without_what_it_does_not_use_yet():
    code = """
import sys, train
from mozoo import compose
from mozoo.evaluation import Selector
config = compose([])
run = train.build(config)
Selector(config.trainer.monitor, run.task, run.splits)
late = {"torchmetrics", "albumentations", "scipy", "matplotlib", "torch.utils.flop_counter"}
print(*sorted(late & sys.modules.keys()), run.task.name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("diamonds\n", "")
