"""docs/loop_lora.md: adapters alone are measured and trained, with activation checkpointing, too."""

import pytest
import torch

from balancing import create_balancer
from tests.loops.pages import load


@pytest.fixture
def loop(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return load("lora")


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def build(loop, checkpointing=False):
    """Model and batch; B is no longer zero."""
    torch.manual_seed(0)
    model, ids = loop.TwoHeads().eval(), torch.randint(50, (16, 8))
    if checkpointing:
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.bert.base_model.model.activation_checkpointing_enable()
        model.bert.enable_input_require_grads()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(generator=generator)
    return model, ids


CHECKPOINTING = [
    pytest.param(False, id="plain"),
    pytest.param(True, id="checkpointing"),
]


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_the_update_is_pcgrad_of_the_adapters(loop, checkpointing):
    model, ids = build(loop, checkpointing)
    seen = []
    model.bert.get_input_embeddings().register_forward_hook(lambda module, inputs, output: seen.append(output))
    report = create_balancer("pcgrad", ("topic", "score")).backward(loop.losses_of(model, ids))
    found = gradients(model)
    assert all(output.grad is None for output in seen)

    plain, _ = build(loop)
    rows = []
    for loss in loop.losses_of(plain, ids).values():
        plain.zero_grad()
        loss.backward(retain_graph=True)
        rows.append(gradients(plain))
    adapters = {name for name in rows[0] if "lora" in name}
    assert adapters == {name for name, p in plain.named_parameters() if "lora" in name}
    g, h = (torch.cat([row[name].flatten().double() for name in sorted(adapters)]) for row in rows)
    product = g @ h
    assert report.cosines[0, 1].item() == pytest.approx((product / g.norm() / h.norm()).item(), rel=1e-4)
    factors = (1 - min(product / g.dot(g), 0), 1 - min(product / h.dot(h), 0)) if product < 0 else (1, 1)
    wanted = {name: factors[0] * rows[0][name] + factors[1] * rows[1][name] for name in adapters}
    wanted |= {name: value for row in rows for name, value in row.items() if not name.startswith("bert")}
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_at_the_first_step_only_b_moves(loop):
    torch.manual_seed(0)
    model, ids = loop.TwoHeads(), torch.randint(50, (16, 8))
    report = create_balancer("pcgrad", ("topic", "score")).backward(loop.losses_of(model, ids))
    moved = {name: bool(value.any()) for name, value in gradients(model).items()}
    assert all(moved[name] == ("lora_A" not in name) for name in moved)
    assert report.norms.min() > 0


def test_the_base_stays_as_it_is(loop):
    torch.manual_seed(0)
    before = loop.TwoHeads().state_dict()
    model, balancer, _ = loop.train("pcgrad", 3)
    assert balancer.step == 3
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
