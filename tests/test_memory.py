"""What a dry run says about memory and multiply-adds is what is there."""

import os
import re

import pytest
import torch
from torch import nn

import mozoo
import train
from mozoo import tools
from mozoo.memory import held_bytes, multiply_adds, peak_bytes

CPU = torch.device("cpu")


def test_the_peak_is_that_of_the_tensors_that_live_together():
    def work():
        first = torch.empty(1_000_000)
        second = torch.empty(500_000)
        del first
        torch.empty(250_000)
        return second

    result, most = peak_bytes(CPU, work)
    assert len(result) == 500_000
    assert most == 4 * 1_500_000
    assert peak_bytes(torch.device("mps"), lambda: "done") == ("done", None)


def test_activations_of_a_step_are_in_the_peak():
    x = torch.randn(4096, 16)
    model = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 1))
    _, most = peak_bytes(CPU, lambda: model(x).sum().backward())
    activations = 4 * 4096 * 256  # of ReLU, in float32
    assert activations < most < 5 * activations


def test_multiply_adds_are_those_of_the_layers():
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 4 * 4, 10))
    assert multiply_adds(lambda: layers(torch.randn(5, 3, 6, 6))) == 5 * (8 * 3 * 9 * 16 + 8 * 16 * 10)


@pytest.mark.parametrize("balancer", ["sum", "uncertainty"])
def test_bytes_between_steps_are_those_of_the_tensors(stones, balancer):
    words = ["trainer.device=cpu", f"task.csv={stones}", f"balancer={balancer}", "trainer.ema=0.9"]
    job = train.build(mozoo.compose(words))
    count = sum(p.numel() for p in job.model.parameters()) + sum(b.numel() for b in job.model.buffers())
    before = held_bytes(job)
    assert (before["gradients"], before["optimizer state"]) == (0, 0)
    train.train_step(job, next(tools.epoch_batches(job, 0)))
    held = held_bytes(job)
    own = 2 if balancer == "uncertainty" else 0
    assert held["parameters"] == pytest.approx(4 * (count + own), rel=1e-3)
    assert held["running mean"] == pytest.approx(4 * count, rel=1e-3)
    assert held["gradients"] == pytest.approx(4 * count, rel=0.02)
    assert held["optimizer state"] == pytest.approx(8 * count, rel=0.02)
    assert held["data"] == sum(s.inputs[0].nbytes + sum(t.nbytes for t in s.targets.values()) for s in job.splits)


def test_a_dry_run_tells_memory_and_multiply_adds(stones, capfd):
    words = ["trainer.device=cpu", f"task.csv={stones}", "trainer.batch_size=64", "trainer.dry_run=true"]
    train.run(mozoo.compose([*words, "balancer=pcgrad"]))
    said = capfd.readouterr()
    whole = re.search(r"memory +([\d.]+) MiB at most in a step of 64 samples on cpu, as torch allocated it:", said.out)
    parts = re.findall(r"(parameters|gradients|optimizer state|data|temporary) ([\d.]+) MiB", said.out)
    assert float(whole[1]) == pytest.approx(sum(float(size) for _, size in parts), abs=0.3)
    assert re.search(r"forward +116 k multiply-adds per sample", said.out)
    assert os.environ[
        "KINETO_LOG_LEVEL"
    ]  # torch reads it at the first profile of a process, maybe that of another test
    assert not [line for line in said.err.splitlines() if "Profiler" not in line]
