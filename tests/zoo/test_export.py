"""Every model leaves this library: as weights on a disk, through torch.hub, and as a graph without Python."""

import io
from pathlib import Path

import pytest
import torch

import zoo
from tests.zoo.tiny import build, tiny

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(params=zoo.list_models(), scope="module")
def name(request):
    tiny(request.param)
    return request.param


@pytest.fixture
def model(name):
    return build(name)


@pytest.fixture
def inputs(name):
    return tiny(name).inputs(4)


def assert_equal(model, other, inputs):
    torch.testing.assert_close(dict(other(*inputs)), dict(model(*inputs)), rtol=0, atol=0)


def test_weights_survive_save_pretrained(model, inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model.save_pretrained(tmp_path)
    assert_equal(model.eval(), type(model).from_pretrained(tmp_path).eval(), inputs)


def test_weights_survive_a_strict_load(name, model, inputs):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = zoo.create_model(name, **tiny(name).arguments)
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert_equal(model.eval(), other.eval(), inputs)


def test_torch_hub_builds_it(name, model, inputs):
    torch.manual_seed(0)
    other = torch.hub.load(str(ROOT), name, source="local", trust_repo=True, **tiny(name).arguments)
    assert_equal(model.eval(), other.eval(), inputs)


def test_graph_is_exported_for_any_batch(name, model, inputs):
    batch = torch.export.Dim("batch", min=1, max=64)
    model.eval()
    exported = torch.export.export(model, inputs, dynamic_shapes=[{0: batch} for _ in inputs]).module()
    for size in (1, 4, 7):
        inputs = tiny(name).inputs(size)
        torch.testing.assert_close(dict(exported(*inputs)), dict(model(*inputs)))


def test_graph_is_exported_to_onnx(model, inputs, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    model.eval()
    torch.onnx.export(model, inputs, tmp_path / "model.onnx", dynamo=True)
    loaded = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(loaded)
    names = [node.name for node in loaded.graph.input]
    feed = {key: tensor.numpy() for key, tensor in zip(names, inputs, strict=True)}
    found = reference.ReferenceEvaluator(loaded).run(None, feed)
    for output, expected in zip(found, model(*inputs).values(), strict=True):
        torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-4, atol=1e-4)


def test_bf16_autocast_is_finite_and_trains(name, model, inputs):
    for phase in model.phases:
        with torch.autocast("cpu", torch.bfloat16):
            losses = tiny(name).losses(model, inputs, phase)
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("size", [1, 2, 5])
def test_evaluation_takes_any_batch(name, model, size):
    outputs = model.eval()(*tiny(name).inputs(size))
    assert all(len(output) == size and output.isfinite().all() for output in outputs.values())


def test_gradient_reaches_every_parameter(name, model, inputs):
    reached = {}
    for phase in model.phases:
        loss = sum(tiny(name).losses(model, inputs, phase).values())
        found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        reached |= {key: g for (key, _), g in zip(model.named_parameters(), found, strict=True) if g is not None}
    assert {key for key, _ in model.named_parameters()} == set(reached)
    assert all(gradient.isfinite().all() for gradient in reached.values())
