"""Configurations of many run folders: as OmegaConf reads them, and composed no more often than needed."""

import io
from dataclasses import asdict

import pytest
from omegaconf import OmegaConf

import mozoo
from mozoo.comparison import runs
from mozoo.config import read_yaml

VALUES = (
    *("1e-3", "1.0e-05", "-1", "0x1f", "010", "1_000", "1:30", "1:30.5", ".5", ".5e+3", ".5e3", ".inf", ".nan", "true"),
    *("off", "null", "~", "2020-01-01", "'1e-3'", "[1, 2e-1]", "{a: 1e5}", "1.e3", "12e03", "1e", "${other}", "1.5.2"),
)


@pytest.mark.parametrize("value", VALUES)
def test_values_are_those_of_omegaconf(value, tmp_path):
    text = f"key: {value}\n"
    (tmp_path / "config.yaml").write_text(text)
    assert repr(read_yaml(tmp_path / "config.yaml")) == repr(OmegaConf.to_container(OmegaConf.load(io.StringIO(text))))


@pytest.mark.parametrize("text", ["key: 1\nkey: 2\n", "key: [1\n", "- 1\n", ""])
def test_file_that_is_no_configuration_is_an_error(text, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        read_yaml(tmp_path / "config.yaml")


def test_runs_that_differ_in_seed_and_learning_rate_share_a_composition(tmp_path, monkeypatch):
    composed = []
    monkeypatch.setattr(runs, "compose_alike", lambda words: composed.append(words) or mozoo.compose(words))
    common = ("balancer=mgda", "trainer.epochs=3")
    words = [(*common, f"optimizer.lr={rate}", f"seed={seed}") for rate in ("0.1", "4", "1e-05") for seed in (0, 7)]
    content = OmegaConf.to_yaml(asdict(mozoo.compose([*common, "optimizer.lr=4", "seed=7"])))
    (tmp_path / "config.yaml").write_text(content)
    runs._composed.cache_clear()
    assert [each for each in words if runs.is_training_of(tmp_path, each)] == [words[3]]
    assert composed == [common]


def test_an_option_that_a_run_is_older_than_has_its_default_there(tmp_path):
    saved = asdict(mozoo.compose(["balancer=mgda"]))
    del saved["model"]["rotate"], saved["balancer"]["min_weight"]
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(saved))
    assert runs.is_training_of(tmp_path, ("balancer=mgda",))
    for others in (
        ("balancer=sum",),
        ("balancer=mgda", "model.rotate=8"),
        ("balancer=mgda", "balancer.min_weight=0.1"),
    ):
        assert not runs.is_training_of(tmp_path, others), others
