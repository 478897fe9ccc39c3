"""Gradients measured beside the step: right, and without a trace in the training."""

import csv

import numpy as np
import pytest
import torch

import mozoo
import train
from mozoo import tools
from mozoo.conflicts import layers_of
from mozoo.panels import balancing
from mozoo.thin_tables import ThinTable
from mozoo.tracking import read_rows

SHORT = [
    "trainer.device=cpu",
    "trainer.epochs=1",
    "trainer.max_steps=9",
    "trainer.batch_size=64",
    "logger.tensorboard=false",
]


def trained(folder, *words, report=False):
    with pytest.MonkeyPatch.context() as patch:
        if not report:  # it takes longer than the rest
            patch.setattr(tools, "write_report", lambda *arguments: None)
        train.run(mozoo.compose([*SHORT, *words, f"run_dir='{folder}'"]))
    return read_rows(folder / "balance.csv")


@pytest.mark.parametrize("balancer", ["sum", "pcgrad", "famo"])
def test_measuring_leaves_the_training_as_it_is(tmp_path, balancer):
    words = [f"balancer={balancer}", "model.dropout=0.1"]
    plain = trained(tmp_path / "plain", *words)
    measured = trained(tmp_path / "measured", *words, "trainer.measure_conflicts=4")
    weights = [(tmp_path / name / "best" / "model.safetensors").read_bytes() for name in ("plain", "measured")]
    assert weights[0] == weights[1]
    assert [row["step"] for row in measured] == ["1", "5", "9"]
    assert plain == []  # of ten steps


@pytest.mark.parametrize("options", [(), ("trainer.grad_accum_steps=4",), ("balancer.normalize=l2",)])
def test_what_is_measured_equals_what_a_gradient_method_measures(tmp_path, options):
    words = [*options, "trainer.measure_conflicts=3", "trainer.log_every=3"]
    (row, *_) = trained(tmp_path / "pcgrad", "balancer=pcgrad", *words)
    plain = [word for word in words if "balancer." not in word]
    (other, *_) = trained(tmp_path / "sum", "balancer=sum", *plain)
    for key in ("norm/cut", "norm/price", "cosine/cut/price", "conflicts"):
        assert float(other[key]) == pytest.approx(float(row[key]), rel=1e-4), key
    assert float(other["alignment"]) == pytest.approx(float(other["cosine/cut/price"]), abs=1e-6)


def test_layers_add_up_to_the_whole():
    config = mozoo.compose([*SHORT, "balancer=sum", "trainer.measure_conflicts=1"])
    job = train.build(config)
    batch = next(iter(tools.epoch_batches(job, 0)))
    (report,) = train.train_step(job, batch)
    assert list(report.groups) == list(layers_of(job.model, job.phases[0]))
    assert len(report.groups) == 4
    total = sum(group.gramian for group in report.groups.values())
    torch.testing.assert_close(report.gramian, total)
    reference = train.build(config)
    values, _ = reference.task.losses(reference.model, batch, reference.phases[0].phase.name)
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, reference.phases[0].shared, retain_graph=True)])
        for loss in values.values()
    ]
    flat = torch.stack(rows).double()
    torch.testing.assert_close(report.gramian, flat @ flat.T)


def test_the_report_shows_conflicts_under_the_plain_sum(tmp_path):
    trained(tmp_path / "run", "balancer=sum", "trainer.measure_conflicts=1", report=True)
    page = (tmp_path / "run" / "report.html").read_text()
    for title in (
        "cut and price: below 0 the gradients conflict",
        "in each part of the shared",
        "Length of each objective",
    ):
        assert title in page, title
    assert "Alignment score" not in page  # of two objectives, it is their cosine
    with (tmp_path / "run" / "balance.csv").open() as file:
        assert any(name.startswith("conflicts/trunk") for name in next(csv.reader(file)))


def test_the_report_shows_the_alignment_of_three_and_the_layer_with_most_conflicts():
    steps = np.arange(1.0, 5.0)
    columns = {"step": steps, **{f"{kind}/{name}": steps for kind in ("loss", "weight", "norm") for name in "abc"}}
    columns |= {"alignment": steps / 8, "conflicts/trunk.0": steps / 4, "conflicts/trunk.1": steps / 5}
    captions = [caption for _, caption in balancing(ThinTable(columns, 1, {}), ["a", "b", "c"], [])]
    assert "Alignment score: 1, all gradients point the same way; -1, they cancel. Mean 0.31." in captions
    assert any("most in trunk.0, 62%" in caption for caption in captions)


def test_bilevel_methods_are_refused_by_name():
    config = mozoo.compose([*SHORT, "balancer=forum", "trainer.measure_conflicts=5"])
    with pytest.raises(mozoo.ConfigError, match="balancer forum takes several"):
        train.build(config)
