"""Tables, TensorBoard, Weights & Biases and MLflow: what is logged arrives, and a resumed run goes on where it stood."""

import importlib.util
import json
import sys
import tomllib
import types
from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mozoo
from mozoo import tools
from mozoo.tracking import read_rows

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("cut", "price")


@pytest.fixture
def tracker(tmp_path, monkeypatch):
    """Makes trackers of one run folder. The check for packages is left out, as stand-ins have none."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types.SimpleNamespace(origin="here"))
    folder = tmp_path / "model-task-sum" / "20260101-000000-seed0"
    folder.mkdir(parents=True)

    def make(*overrides, done=None, names=NAMES):
        config = mozoo.compose(["trainer.epochs=3", *overrides])
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(asdict(config)))
        return tools.Tracker(folder, [f"{name}/loss" for name in names], names, config.logger, done)

    make.folder = folder
    return make


def steps(tracker, first, last):
    """Two numbers a step, and a row of metrics every second step."""
    for step in range(first, last + 1):
        tracker.log_balance(step, 1 + step // 4, "all", {"loss/cut": step / 10, "weight/cut": 1.0})
        if step % 2 == 0:
            tracker.log_metrics(step // 2, step, "val", 1.0, 0.1, {"cut/loss": float(step)})


def finish(tracker, status="finished"):
    tracker.write_summary({"status": status})
    tracker.close()


# ---- tables and TensorBoard ------------------------------------------------------------------------------------------


def test_a_resumed_run_keeps_the_rows_behind_it(tracker):
    first = tracker("logger.tensorboard=false")
    steps(first, 1, 6)
    first.close()
    second = tracker("logger.tensorboard=false", done=(2, 4))
    steps(second, 5, 8)
    finish(second)
    assert [row["step"] for row in read_rows(tracker.folder / "balance.csv")] == [str(step) for step in range(1, 9)]
    assert [row["epoch"] for row in read_rows(tracker.folder / "metrics.csv")] == ["1", "2", "3", "4"]


def test_tensorboard_has_every_value_at_its_step(tracker):
    running = tracker()
    steps(running, 1, 6)
    running.log_metrics(3, 6, "train", 1.0, 0.1, {"cut/loss": 0.25})
    finish(running)
    events = EventAccumulator(str(tracker.folder / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {
        *("balance/loss/cut", "balance/weight/cut", "val/cut/loss", "train/cut/loss", "lr")
    }
    losses = [(event.step, event.value) for event in events.Scalars("balance/loss/cut")]
    assert losses == [(step, pytest.approx(step / 10)) for step in range(1, 7)]
    assert [(event.step, event.value) for event in events.Scalars("val/cut/loss")] == [(2, 2.0), (4, 4.0), (6, 6.0)]


def test_tensorboard_forgets_what_a_resumed_run_does_again(tracker):
    first = tracker()
    steps(first, 1, 6)
    first.close()
    second = tracker(done=(2, 4))
    steps(second, 5, 7)
    finish(second)
    events = EventAccumulator(str(tracker.folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("balance/loss/cut")] == [1, 2, 3, 4, 5, 6, 7]


def test_nothing_but_tables_is_written_if_nothing_else_is_asked_for(tracker):
    finish(tracker("logger.tensorboard=false"))
    assert {path.name for path in tracker.folder.iterdir()} == {
        *("config.yaml", "metrics.csv", "balance.csv", "summary.json")
    }


# ---- packages that one may not have ----------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["wandb", "mlflow"])
def test_a_missing_package_is_one_message_before_anything_is_written(service, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == service else found(name, *more)
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mozoo.ConfigError, match=rf"logger\.{service}=true needs .*pip install -e '\.\[{service}\]'"):
        mozoo.compose([f"logger.{service}=true"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("service", ["wandb", "mlflow"])
def test_a_folder_of_that_name_is_no_package(service, tmp_path, monkeypatch):
    (tmp_path / service).mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, service, raising=False)
    with pytest.raises(mozoo.ConfigError, match="pip install"):
        mozoo.compose([f"logger.{service}=true"])


def test_what_the_messages_ask_to_install_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"wandb", "mlflow"} <= set(extras)


# ---- Weights & Biases ------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb(monkeypatch):
    """Stands in for the package, and remembers runs and what they were told."""
    module = types.ModuleType("wandb")
    module.Error = type("Error", (Exception,), {})
    module.runs = []

    class Run:
        def __init__(self, **arguments):
            self.arguments, self.logged, self.exit_code = arguments, [], None
            self.id = arguments["id"] or f"id{len(module.runs)}"
            module.runs.append(self)

        def log(self, values, step):
            self.logged.append((step, values))

        def finish(self, exit_code):
            self.exit_code = exit_code

    module.init = lambda **arguments: Run(**arguments)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_gets_the_configuration_and_every_value(tracker, wandb):
    running = tracker("logger.tensorboard=false", "logger.wandb=true", "logger.wandb_project=stones")
    steps(running, 1, 2)
    finish(running)
    (run,) = wandb.runs
    assert run.arguments["project"] == "stones"
    assert run.arguments["name"] == "model-task-sum/20260101-000000-seed0"
    assert run.arguments["config"]["trainer"]["epochs"] == 3
    assert run.logged[0] == (1, {"balance/loss/cut": 0.1, "balance/weight/cut": 1.0})
    assert run.logged[-1] == (2, {"val/cut/loss": 2.0})
    assert run.exit_code == 0


def test_wandb_goes_on_with_the_same_run(tracker, wandb):
    first = tracker("logger.tensorboard=false", "logger.wandb=true")
    first.close()  # as after an error: without a summary
    finish(tracker("logger.tensorboard=false", "logger.wandb=true", done=(0, 0)))
    assert [run.arguments["resume"] for run in wandb.runs] == [None, "allow"]
    assert [run.id for run in wandb.runs] == ["id0", "id0"]
    assert [run.exit_code for run in wandb.runs] == [1, 0]


def test_wandb_that_refuses_is_an_error_of_the_configuration(tracker, wandb):
    def refuse(**arguments):
        raise wandb.Error("no key\nmore lines")

    wandb.init = refuse
    with pytest.raises(mozoo.ConfigError, match=r"logger\.wandb: no key; log in with `wandb login`, or set WANDB_MODE"):
        tracker("logger.wandb=true")


# ---- MLflow ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mlflow(monkeypatch):
    """Stands in for the package: a store in memory that can be switched off."""
    module, entities, exceptions = (types.ModuleType(f"mlflow{part}") for part in ("", ".entities", ".exceptions"))
    exceptions.MlflowException = type("MlflowException", (Exception,), {})
    entities.Metric = lambda key, value, timestamp, step: (key, value, step)
    entities.Param = lambda key, value: (key, value)
    module.experiments, module.runs, module.uris, module.down = {}, {}, [], False

    class MlflowClient:
        def __init__(self, tracking_uri):
            module.uris.append(tracking_uri)

        def get_experiment_by_name(self, name):
            return types.SimpleNamespace(experiment_id=name) if name in module.experiments else None

        def create_experiment(self, name):
            module.experiments[name] = True
            return name

        def create_run(self, experiment_id, run_name):
            name = f"run{len(module.runs)}"
            module.runs[name] = {"metrics": [], "params": {}, "status": "RUNNING", "name": run_name, "calls": 0}
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id=name))

        def update_run(self, run_id, status):
            module.runs[run_id]["status"] = status

        set_terminated = update_run

        def log_batch(self, run_id, metrics=(), params=()):
            if module.down:
                raise exceptions.MlflowException("no connection\nmore lines")
            assert len(metrics) <= 1000
            assert len(params) <= 100
            module.runs[run_id]["metrics"] += metrics
            module.runs[run_id]["params"] |= dict(params)
            module.runs[run_id]["calls"] += 1

    module.MlflowClient, module.entities, module.exceptions = MlflowClient, entities, exceptions
    for part in (module, entities, exceptions):
        monkeypatch.setitem(sys.modules, part.__name__, part)
    return module


ONLY_MLFLOW = ("logger.tensorboard=false", "logger.mlflow=true", "logger.mlflow_uri=sqlite:///runs.db")


def test_mlflow_gets_the_configuration_and_every_value(tracker, mlflow):
    running = tracker(*ONLY_MLFLOW, "logger.mlflow_experiment=stones")
    steps(running, 1, 2)
    running.flush()
    finish(running)
    (run,) = mlflow.runs.values()
    assert mlflow.uris == ["sqlite:///runs.db"]
    assert mlflow.experiments == {"stones": True}
    assert run["name"] == "model-task-sum/20260101-000000-seed0"
    assert (run["params"]["trainer.epochs"], run["params"]["model.name"]) == ("3", "shared_trunk")
    assert ("balance/loss/cut", 0.1, 1) in run["metrics"]
    assert ("val/cut/loss", 2.0, 2) in run["metrics"]
    assert run["status"] == "FINISHED"


def test_no_step_waits_for_mlflow(tracker, mlflow):
    running = tracker(*ONLY_MLFLOW)
    before = mlflow.runs["run0"]["calls"]
    for step in range(600):
        running.log_balance(step, 1, "all", {"loss/cut": 0.0, "loss/price": 0.0})
    assert mlflow.runs["run0"]["calls"] == before
    running.flush()
    assert mlflow.runs["run0"]["calls"] == before + 2  # at most 1,000 values in one
    assert len(mlflow.runs["run0"]["metrics"]) == 1200
    finish(running)


def test_mlflow_goes_on_with_the_same_run(tracker, mlflow):
    first = tracker(*ONLY_MLFLOW)
    steps(first, 1, 2)
    finish(first, "stopped")
    assert mlflow.runs["run0"]["status"] == "KILLED"
    second = tracker(*ONLY_MLFLOW, done=(1, 2))
    assert mlflow.runs["run0"]["status"] == "RUNNING"
    steps(second, 3, 4)
    second.close()
    assert list(mlflow.runs) == ["run0"]
    assert mlflow.runs["run0"]["status"] == "FAILED"
    assert [step for key, _, step in mlflow.runs["run0"]["metrics"] if key == "balance/loss/cut"] == [1, 2, 3, 4]


def test_a_new_run_in_the_same_folder_is_a_new_run(tracker, mlflow):
    finish(tracker(*ONLY_MLFLOW))
    finish(tracker(*ONLY_MLFLOW))
    assert list(mlflow.runs) == ["run0", "run1"]
    assert json.loads((tracker.folder / "services.json").read_text()) == {"mlflow": "run1"}


def test_training_goes_on_while_the_server_is_down(tracker, mlflow):
    running = tracker(*ONLY_MLFLOW)
    mlflow.down = True
    running.log_balance(1, 1, "all", {"loss/cut": 1.0})
    with pytest.warns(UserWarning, match=r"logger\.mlflow: no connection; will try again"):
        running.flush()
    mlflow.down = False
    running.log_balance(2, 1, "all", {"loss/cut": 2.0})
    running.flush()
    assert [value for _, value, _ in mlflow.runs["run0"]["metrics"]] == [1.0, 2.0]
    finish(running)


def test_names_that_mlflow_does_not_take_are_changed(tracker, mlflow):
    running = tracker(*ONLY_MLFLOW, names=["weight (kg)"])
    running.log_balance(1, 1, "all", {"loss/weight (kg)": 1.0})
    finish(running)
    assert [key for key, _, _ in mlflow.runs["run0"]["metrics"]] == ["balance/loss/weight _kg_"]


def test_the_real_mlflow_keeps_a_run_in_a_database(tracker, tmp_path, monkeypatch):
    client = pytest.importorskip("mlflow").MlflowClient
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    arguments = ("logger.tensorboard=false", "logger.mlflow=true", f"logger.mlflow_uri={uri}")
    first = tracker(*arguments)
    steps(first, 1, 4)
    finish(first, "stopped")
    second = tracker(*arguments, done=(2, 4))
    steps(second, 5, 6)
    finish(second)
    store = client(tracking_uri=uri)
    (run,) = store.search_runs([store.get_experiment_by_name("mozoo").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["trainer.epochs"] == "3"
    assert [metric.step for metric in store.get_metric_history(run.info.run_id, "balance/loss/cut")] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
