"""Names that changed: on the command line, and in the folders of runs made before."""

import json
from dataclasses import asdict

import pytest
import torch
import yaml

import mozoo
import train
from mozoo import tools
from mozoo.arguments import check_arguments
from mozoo.renames import renamed, renamed_value, translate
from scripts import evaluate
from tests.tiny_runs import stop_after

OLD = {
    "grad_accum_steps": "accumulate",
    "max_grad_norm": "clip_norm",
    "grad_checkpointing": "checkpoint_activations",
    "num_workers": "workers",
    "num_threads": "threads",
    "monitor": "select",
    "batchnorm": "batch_statistics",
}


def in_old_words(config):
    """The configuration as an earlier version wrote it."""
    trainer = {OLD.get(key, key): value for key, value in config["trainer"].items()}
    trainer["batch_statistics"] = trainer["batch_statistics"].replace("ized", "ised")
    recipe = {"seeds": [], "tier": None, "source": None, "expected": {}, "published": {}}
    model, balancer = ({k: "task" if v == "auto" else v for k, v in config[g].items()} for g in ("model", "balancer"))
    return {**config, "trainer": trainer, "model": model, "balancer": balancer, **recipe}


@pytest.fixture
def words(stones, tmp_path, monkeypatch):
    """Overrides of a short run whose configuration has a value for every name that changed."""
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)
    return (
        *(f"task.csv={stones}", f"run_dir={tmp_path / 'run'}", "trainer.device=cpu", "trainer.batch_size=64"),
        *("trainer.grad_accum_steps=2", "trainer.max_grad_norm=1", "trainer.monitor=last", "trainer.max_steps=30"),
        *("trainer.batchnorm=synchronized", "balancer=uncertainty", "logger.tensorboard=false", "trainer.epochs=2"),
    )


def rewrite(folder):
    """Put the configuration of a run folder into the words of an earlier version."""
    saved = torch.load(folder / "last.pt", weights_only=True)
    assert saved["config"]["model"]["classifiers"] == saved["config"]["balancer"]["classification"] == "auto"
    saved["config"] = in_old_words(saved["config"])
    torch.save(saved, folder / "last.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump({**saved["config"], "resume": None}))


@pytest.mark.parametrize("resumes", ["command", "configuration"])
def test_run_made_before_is_resumed(words, tmp_path, monkeypatch, resumes):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 25)
        assert train.run(mozoo.compose(words))["steps"] == 25
    before = torch.load(folder / "last.pt", weights_only=True)["config"]
    rewrite(folder)
    if resumes == "command":
        monkeypatch.setattr("sys.argv", ["train.py", f"resume={folder}"])
        train.main()
    else:
        train.run(mozoo.compose([*words, f"resume={folder}"]))
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["select"]) == ("finished", 30, "last")
    after = torch.load(folder / "last.pt", weights_only=True)["config"]
    assert after == {**before, "resume": str(folder), "run_dir": after["run_dir"]}


def test_run_made_before_is_evaluated(words, tmp_path):
    metrics = train.run(mozoo.compose(words))["metrics"]
    rewrite(tmp_path / "run")
    evaluate.main([f"run={tmp_path / 'run'}"])
    assert json.loads((tmp_path / "run" / "evaluation-test.json").read_text())["metrics"] == metrics


def test_saved_configuration_of_today_stays_as_it_is():
    content = asdict(mozoo.compose(["balancer=pcgrad", "balancer.before=uncertainty"]))
    assert tools.saved_config(content) == content


def test_options_of_a_balancer_are_translated_to_names_that_exist():
    section = {"name": "pcgrad", "every": 2, "before": {"name": "uncertainty", "ema": 0.5, "classification": "task"}}
    known = {"": {"balancer"}, "balancer": {"update_every", "weight_ema"}}
    assert translate({"balancer": section, "tier": "toy"}, known) == {
        "balancer": {
            "name": "pcgrad",
            "update_every": 2,
            "before": {"name": "uncertainty", "weight_ema": 0.5, "classification": "auto"},
        }
    }
    assert translate({"balancer": section}, {"": {"balancer"}, "balancer": {"every", "ema"}})["balancer"]["every"] == 2


@pytest.mark.parametrize("group", ["balancer", "balancer.before"])
@pytest.mark.parametrize(("old", "new"), [("every", "update_every"), ("ema", "weight_ema")])
def test_old_option_of_a_balancer_is_named_with_its_new_name(group, old, new):
    with pytest.raises(mozoo.ConfigError, match=rf"^{group}\.{old} was renamed to {group}\.{new}$"):
        check_arguments(group, {"name": "sum", old: 2}, {new: None})


def test_names_that_stay_are_no_renames():
    assert renamed("trainer.epochs") is renamed("optimizer.every") is renamed("sed") is None
    assert renamed_value("task.name", "task") is renamed_value("trainer.monitor", "loss") is None
