"""Physics-informed networks through train.run: methods, exact resume, L-BFGS, predictions, and what is refused."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch

import mozoo
import train
from balancing import create_balancer
from mozoo import tools
from mozoo.prediction import load_predictor
from mozoo.run_evaluation import evaluate_run
from tasks import create_task
from tests.tiny_runs import stop_after

SMALL = (
    *("model=pinn", "model.width=8", "model.depth=2", "task.points=96", "trainer.batch_size=32", "trainer.epochs=2"),
    *("trainer.device=cpu", "logger.tensorboard=false", "trainer.log_every=1", "trainer.lbfgs_samples=64"),
)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without reports, and with a small grid for the reference: both take longer than the rest."""
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)
    monkeypatch.setattr("tasks.burgers.Burgers.grid", (16, 10))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("balancer=relobralo", "trainer.grad_accum_steps=2"),
        ("balancer=famo", "trainer.lbfgs_steps=2"),
        ("balancer=uncertainty", "trainer.lbfgs_steps=2", "task=helmholtz"),
        ("balancer=nash_mtl", "trainer.lbfgs_steps=2", "trainer.weights_per=network"),
        ("balancer=graddrop", "trainer.lbfgs_steps=2", "task=advection"),
        ("balancer=auto_lambda",),
        ("task=lid_cavity", "task.cells=16", "balancer=conflict_free", "balancer.memory=lean"),
        ("task=lid_cavity", "task.cells=16", "task.conditions=hard", "balancer=pcgrad"),
        ("task=lid_cavity", "task.cells=16", "task.formulation=stream", "balancer=mgda", "trainer.lbfgs_steps=2"),
        ("task=helmholtz", "task.conditions=hard", "model.fourier=4"),
        ("trainer.overfit=16", "trainer.batch_size=16"),
    ],
)
def test_every_kind_of_method_trains_on_losses_with_derivatives(tmp_path, overrides):
    task = () if any(word.startswith("task=") for word in overrides) else ("task=burgers",)
    folder = tmp_path / "run"
    paths = (f"run_dir={folder}", f"data_dir={tmp_path / 'data'}")
    summary = train.run(mozoo.compose([*SMALL, *task, *overrides, *paths]))
    assert summary["status"] == "finished"
    assert all(0 < value < 50 for value in summary["metrics"].values())
    assert {name.rpartition("/")[2] for name in summary["metrics"]} == {"relative_l2"}
    table = rows(folder / "metrics.csv")
    finish = any(word.startswith("trainer.lbfgs") for word in overrides)
    assert [row["epoch"] for row in table if row["split"] == "val"] == ["1", "2", "3"][: 2 + finish]
    assert summary["best_epoch"] == 2 + finish


def test_resume_is_bit_equal_within_an_epoch_and_within_l_bfgs(tmp_path, monkeypatch):
    overrides = (*SMALL, "task=burgers", "balancer=pcgrad", "trainer.lbfgs_steps=30")
    train.run(mozoo.compose([*overrides, f"run_dir={tmp_path / 'whole'}"]))
    with monkeypatch.context() as patch:
        stop_after(patch, 2)  # of three in an epoch
        train.run(mozoo.compose([*overrides, f"run_dir={tmp_path / 'stopped'}"]))
    finish, request = train.tools.finish, []

    def interrupted(job, stop):
        """A request to stop that arrives in the middle of L-BFGS."""
        request.append(stop)
        answers = iter([False, False, True])
        monkeypatch.setattr(stop, "agreed", lambda: next(answers, True))
        return finish(job, stop)

    with monkeypatch.context() as patch:
        patch.setattr(tools, "finish", interrupted)
        summary = train.run(mozoo.compose([*overrides, f"resume={tmp_path / 'stopped'}"]))
    assert (summary["status"], len(request)) == ("stopped", 1)
    for _ in range(2):  # a run that is finished repeats L-BFGS
        train.run(mozoo.compose([*overrides, f"resume={tmp_path / 'stopped'}"]))
        once, twice = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "stopped"))
        for part in ("model", "turns", "rng"):
            torch.testing.assert_close(twice[part], once[part], rtol=0, atol=0)
        assert (tmp_path / "whole/balance.csv").read_bytes() == (tmp_path / "stopped/balance.csv").read_bytes()
        best = [(tmp_path / name / "best/model.safetensors").read_bytes() for name in ("whole", "stopped")]
        assert best[0] == best[1]
        results = [json.loads((tmp_path / n / "summary.json").read_text())["metrics"] for n in ("whole", "stopped")]
        assert results[0] == results[1]
        tables = [[{**row, "seconds": ""} for row in rows(tmp_path / n / "metrics.csv")] for n in ("whole", "stopped")]
        assert tables[0] == tables[1]


def test_l_bfgs_lowers_the_weighted_sum_and_leaves_the_balancer_as_it_is(tmp_path):
    job = train.build(mozoo.compose([*SMALL, "task=burgers", "balancer=relobralo", "trainer.lbfgs_steps=25"]))
    batch = next(tools.epoch_batches(job, 0))
    for _ in range(3):
        train.train_step(job, batch)
    balancer = job.phases[0].balancer
    before = balancer.state_dict()

    def total():
        job.splits.train.set_epoch(job.config.seed, 0)
        whole = job.splits.train.batch(torch.arange(96))
        return sum(job.task.losses(job.model, whole, "train")[0].values()).item()

    high = total()
    assert tools.finish(job, tools.StopRequest())
    assert total() < 0.7 * high
    torch.testing.assert_close(balancer.state_dict(), before, rtol=0, atol=0)
    assert {p.dtype for p in job.model.state_dict().values()} == {torch.float32}
    assert {*tools.mean_losses(job)} == {"equation", "initial", "boundary"}
    job.config.trainer.lbfgs_steps = None
    assert not tools.finish(job, tools.StopRequest())


def test_l_bfgs_finishes_a_model_of_a_table_too(tmp_path):
    """With dropout and labels that are classes: nothing of it is about equations."""
    small = ("model.width=8", "model.depth=1", "model.dropout=0.2", "trainer.max_steps=4", "trainer.lbfgs_steps=20")
    paths = (f"run_dir={tmp_path / 'run'}", "trainer.device=cpu", "logger.tensorboard=false")
    train.run(mozoo.compose([*small, *paths, "trainer.lbfgs_samples=500", "balancer=mgda"]))
    first, last = (row for row in rows(tmp_path / "run/metrics.csv") if row["split"] == "val")
    assert float(last["cut/loss"]) + float(last["price/loss"]) < float(first["cut/loss"]) + float(first["price/loss"])


def test_a_run_predicts_and_is_evaluated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    summary = train.run(mozoo.compose([*SMALL, "task=advection", "task.conditions=hard", "run_dir=run"]))
    assert "| `u` | a field over x and t |" in (tmp_path / "run/best/README.md").read_text()
    predictor = load_predictor(tmp_path / "run")
    (tmp_path / "points.csv").write_text("x,t\n1.0,0.0\n2.0,0.0\n")
    prediction = predictor.predict(tmp_path / "points.csv")
    assert prediction.own == {"x": ["1.0", "2.0"], "t": ["0.0", "0.0"]}
    assert prediction.cells["u"] == pytest.approx([0.8414710, 0.9092974])  # the condition holds in what is restored
    for split in ("test", "train"):
        evaluate_run(train.build, "run", split)
        found = json.loads((tmp_path / f"run/evaluation-{split}.json").read_text())["metrics"][f"{split}/u/relative_l2"]
        assert found == pytest.approx(summary["metrics"]["test/u/relative_l2"], rel=0.5 if split == "train" else 1e-6)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("balancer=mgda", "balancer.at=features"), r"balancer\.at=features .* task burgers hold derivatives"),
        (("trainer.precision=bf16",), r"trainer\.precision=bf16 .* task burgers hold derivatives"),
        (("trainer.lbfgs_steps=5", "trainer.ema=0.9"), r"trainer\.lbfgs_steps=5 needs trainer\.ema=null"),
        (("trainer.lbfgs_steps=5", "balancer=moml"), r"trainer\.lbfgs_steps=5 needs a balancer of one level"),
        (
            ("trainer.lbfgs_steps=5", "balancer=mgda", "balancer.sample=2"),
            r"trainer\.lbfgs_steps=5 needs balancer\.sample=null",
        ),
        (("trainer.lbfgs_steps=0",), r"trainer\.lbfgs_steps must be at least 1"),
        (("balancer=prior_loss",), "asks its task for 'prior_losses', which task 'burgers' cannot say"),
        (("task=diamonds", "trainer.overfit=8"), "model 'pinn' asks its task for 'lower'"),
        (("model.trial=helmholtz", "model.fields=[u,v]"), "pinn: trial='helmholtz' is for the fields u of two"),
        (("trainer.monitor=loss",), r"trainer\.monitor: task burgers has no rule 'loss'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(overrides, message, tmp_path):
    given = [word for word in SMALL if not (word.startswith("task.") and "task=diamonds" in overrides)]
    task = [] if "task=diamonds" in overrides else ["task=burgers"]
    with pytest.raises(mozoo.ConfigError, match=message):
        train.run(mozoo.compose([*given, *task, *overrides, f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


def test_a_compiled_model_is_refused_by_name():
    config = mozoo.compose([*SMALL, "task=burgers", "trainer.compile=true"])
    balancer, task = create_balancer("sum", ("equation", "initial", "boundary")), create_task("burgers")
    with pytest.raises(mozoo.ConfigError, match=r"trainer\.compile=true .* task burgers hold derivatives"):
        tools.check_balancer(balancer, config.trainer, tools.Processes(), task, None)


def test_two_phases_have_no_one_sum_for_l_bfgs():
    small = ("model=gan_points", "task.samples=64", "trainer.lbfgs_steps=5")
    with pytest.raises(mozoo.ConfigError, match="needs a model that trains in one phase"):
        train.build(mozoo.compose(small))


@pytest.mark.parametrize("derivatives", [True, False])
def test_multiplications_with_ten_bits_are_not_for_derivatives(derivatives, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", chosen.append)
    monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace())
    model, trainer = torch.nn.Linear(2, 2), mozoo.compose(SMALL).trainer
    monkeypatch.setattr(model, "to", lambda *arguments: model)
    assert tools.place_model(model, torch.device("cuda"), trainer, tools.Processes(), derivatives) is model
    assert chosen == (["highest"] if derivatives else ["high"])
    assert torch.backends.cudnn.allow_tf32 == (not derivatives)
