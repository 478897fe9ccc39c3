"""Configurations that share compositions are those that hydra composes one by one."""

import contextlib
from dataclasses import asdict

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

import mozoo
from lab import results
from lab.studies import STUDIES, Trial
from mozoo.comparison import runs, settings
from mozoo.config import CONFIG_DIR

WORDS = (
    (),
    ("model=chained",),  # chooses grad_normalize
    ("model=chained", "balancer=sum"),
    ("model=gan", "balancer=pcgrad", "task.loss=hinge", "trainer.epochs=7", "trainer.epochs=8"),
    ("experiment=nyuv2_segnet", "balancer=famo", "scheduler=step", "model.width=8", "optimizer.betas=[0.8, 0.9]"),
    ("balancer=fixed", "balancer.values={cut: 1, price: 0.1}", "optimizer=sgd", "freeze=[trunk]"),
    ("balancer=pcgrad", "balancer.before=uncertainty", "++trainer.epochs=3", "debug=quick"),
)
WRONG = (
    "trainer.epoch=3",
    "trainer.epochs=none",
    "balancer=psgrad",
    "balancer.sover=exact",
    "model.widht=3",
    "seed=1,2",
)


@pytest.mark.parametrize("words", WORDS)
def test_configurations_are_those_of_hydra(words):
    assert settings.compose_alike(words) == mozoo.compose(words)


@pytest.mark.parametrize("name", STUDIES)
def test_configurations_of_studies_are_those_of_hydra(name):
    words = Trial(name, list(STUDIES[name].settings())[-1], 0.5, 3).training.overrides
    assert settings.compose_alike(words) == mozoo.compose(words)


@pytest.mark.parametrize("word", WRONG)
def test_wrong_words_have_the_message_of_hydra(word):
    messages = []
    for compose in (mozoo.compose, settings.compose_alike):
        with pytest.raises(Exception, match=r".") as caught:
            compose(["balancer=mgda", word])
        messages.append((type(caught.value), str(caught.value)))
    assert messages[0] == messages[1]


def test_methods_of_a_study_share_the_composition_of_the_rest(monkeypatch):
    composed = []
    hydra_compose = hydra.compose
    monkeypatch.setattr(hydra, "compose", lambda *a, **k: composed.append(k["overrides"]) or hydra_compose(*a, **k))
    with cleared():
        for method in ("sum", "mgda", "famo"):
            for epochs in (2, 3):
                settings.compose_alike(["model=dual_sum", f"balancer={method}", f"trainer.epochs={epochs}"])
    assert composed == [
        ["model=dual_sum", "balancer=sum"],
        *(["balancer=sum"], ["balancer=mgda"], ["balancer=famo"]),
    ]


def test_files_that_change_a_method_are_composed_with_it(monkeypatch, tmp_path):
    for file in CONFIG_DIR.rglob("*.yaml"):
        (tmp_path / file.relative_to(CONFIG_DIR)).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / file.relative_to(CONFIG_DIR)).write_text(file.read_text())
    (tmp_path / "experiment" / "smooth.yaml").write_text("# @package _global_\nbalancer:\n  weight_ema: 0.5\n")
    (tmp_path / "balancer" / "long.yaml").write_text(
        "# @package _global_\ndefaults: [/balancer/mgda@balancer, _self_]\nseed: 9\n"
    )
    for module in (settings, mozoo.config):
        monkeypatch.setattr(module, "CONFIG_DIR", tmp_path)
    with cleared():
        smooth = settings.compose_alike(["experiment=smooth", "balancer=mgda", "seed=3"])
        long = settings.compose_alike(["model=ple", "balancer=long", "trainer.epochs=3"])
    assert (smooth.balancer["name"], smooth.balancer["weight_ema"], smooth.seed) == ("mgda", 0.5, 3)
    assert (long.balancer["name"], long.model["name"], long.seed) == ("mgda", "ple", 9)


def test_only_files_of_methods_set_what_a_method_takes():
    """A value that happens to be the default would not be seen otherwise."""
    for file in CONFIG_DIR.rglob("*.yaml"):
        if file.parent.name != "balancer":
            assert "balancer" not in yaml.safe_load(file.read_text(encoding="utf-8")), file


def test_runs_of_other_words_are_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "OUTPUTS", tmp_path)
    trial = Trial("two_view_fashion", "mgda", 0.008, 1)
    folder = trial.training.folder
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text('{"status": "finished"}')

    config = OmegaConf.create(asdict(mozoo.compose(trial.training.overrides)))

    def counted(*words: str) -> bool:
        content = config.copy()
        content.merge_with_dotlist(list(words))
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(content))
        return trial.finished

    assert counted()
    assert counted("trainer.device=cpu", "logger.tensorboard=false", f"run_dir={folder}", "data_dir=elsewhere")
    others = ("seed=2", "optimizer.lr=0.032", "trainer.max_steps=151", "balancer.weight_ema=0.1", "model.name=ple")
    assert not any(counted(word) for word in (*others, "balancer.name=upgrad", "balancer.solver=frank_wolfe"))
    assert counted()
    (folder / "summary.json").write_text('{"status": "stopped"}')
    assert not trial.finished
    (folder / "config.yaml").unlink()
    assert not trial.finished


@contextlib.contextmanager
def cleared():
    """Without compositions of before, and of now afterwards."""
    caches = settings._chosen, settings._composed, runs._composed
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()
