"""docs/loop_trainer.md: gradients of the plain Trainer, micro-batches, logged losses, resumed runs."""

import pytest
import torch
from torch import nn

from tests.loops.pages import assert_equal, load


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def without_dropout(trainer):
    for module in trainer.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return trainer


def parameters(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def test_a_plain_sum_is_what_trainer_does(tmp_path):
    loop = load("trainer")  # skips the test if a package is missing
    from transformers import Trainer

    options = {"num_train_epochs": 2}
    trainer = without_dropout(loop.build(str(tmp_path / "mine"), "sum", **options))
    trainer.train()
    source = without_dropout(loop.build(str(tmp_path / "its"), "sum", **options))
    optimizer = torch.optim.Adam(source.model.parameters(), lr=2e-3)
    plain = Trainer(
        model=source.model, args=source.args, train_dataset=source.train_dataset, optimizers=(optimizer, None)
    )
    plain.train()
    torch.testing.assert_close(parameters(trainer), parameters(plain), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["pcgrad", "uncertainty"])
def test_micro_batches_equal_whole_batches(method, tmp_path):
    loop, found = load("trainer"), []
    # 64 rows: a step of an incomplete group ends each epoch
    for size, count in ((24, 1), (8, 3)):
        options = {"num_train_epochs": 2, "per_device_train_batch_size": size, "gradient_accumulation_steps": count}
        trainer = without_dropout(loop.build(str(tmp_path / str(count)), method, **options))
        trainer.train()
        assert trainer.balancer.step == trainer.state.global_step == 6
        found.append(parameters(trainer))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)


def test_every_loss_is_logged(tmp_path):
    trainer = load("trainer").build(str(tmp_path), num_train_epochs=10, eval_strategy="steps", eval_steps=7)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in entries] == [20, 40]
    for entry in entries:
        assert entry["loss"] == pytest.approx(entry["loss/topic"] + entry["loss/score"], abs=1e-4)
        assert {"weight/topic", "norm/score", "cosine/topic/score"} <= entry.keys()
    assert any("eval_loss" in entry for entry in trainer.state.log_history)


@pytest.mark.parametrize("method", ["pcgrad", "uncertainty", "dwa", "moco"])
def test_a_resumed_run_equals_an_uninterrupted_one(method, tmp_path):
    loop = load("trainer")
    whole = loop.build(str(tmp_path), method)
    whole.train()
    resumed = loop.build(str(tmp_path), method)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))
    assert resumed.balancer.step == 40
    assert_equal(parameters(resumed), parameters(whole))
    assert_equal(dict(resumed.balancer.state_dict()), dict(whole.balancer.state_dict()))
