"""Export of every model: as weights on a disk, through torch.hub, and as a graph."""

import io
import re
from pathlib import Path

import pytest
import torch

import zoo
from tests.zoo.tiny import GRAPHS, build, tiny

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


def test_torch_hub_needs_no_arguments_for_a_model_of_maps():
    model = torch.hub.load(str(ROOT), "dense_resnet18", source="local", trust_repo=True).eval()
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 32, 48))
    assert {key: tuple(value.shape[1:]) for key, value in outputs.items()} == {
        "segmentation": (13, 32, 48),
        "depth": (1, 32, 48),
        "normals": (3, 32, 48),
    }


@pytest.fixture(scope="module")
def exported(name):
    """Model in eval mode, with the statistics of a batch, and its graph for 1 to 64 samples."""
    model, inputs = build(name), tiny(name).inputs(4)
    with torch.no_grad():
        model(*inputs)
    batch = torch.export.Dim("batch", min=1, max=64)
    return model.eval(), torch.export.export(model, inputs, dynamic_shapes=[{0: batch} for _ in inputs])


@pytest.mark.parametrize("name", GRAPHS, indirect=True, scope="module")
def test_graph_is_exported_for_any_batch(name, exported):
    model, program = exported
    graph = program.module()
    for size in (1, 4, 7):
        inputs = tiny(name).inputs(size)
        torch.testing.assert_close(dict(graph(*inputs)), dict(model(*inputs)))


def run_onnx(path, inputs):
    """Outputs by name of the model in ``path``, which must be valid."""
    pytest.importorskip("onnx").checker.check_model(path)
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {node.name: values.numpy() for node, values in zip(session.get_inputs(), inputs, strict=True)}
    names = [node.name for node in session.get_outputs()]
    return {name: torch.from_numpy(array) for name, array in zip(names, session.run(None, feed), strict=True)}


@pytest.mark.parametrize("name", GRAPHS, indirect=True, scope="module")
def test_onnx_gives_the_same_outputs_for_any_batch(name, exported, tmp_path):
    pytest.importorskip("onnxscript")
    model, program = exported
    inputs = [f"input_{i}" for i in range(len(tiny(name).shapes))]  # dual_sum has an input and an output named left
    outputs = list(model(*tiny(name).inputs(1)))
    path = tmp_path / "model.onnx"
    torch.onnx.export(program, f=path, dynamo=True, verbose=False, input_names=inputs, output_names=outputs)
    for size in (1, 4, 7):
        given = tiny(name).inputs(size)
        with torch.no_grad():
            torch.testing.assert_close(run_onnx(path, given), dict(model(*given)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gan", zoo.list_models("gan*"))
def test_onnx_generates_the_same_samples(gan, tmp_path):
    pytest.importorskip("onnxscript")
    model = build(gan)
    model.generate(model.noise(8), torch.arange(8) % 2)
    model.eval()
    path, batch = tmp_path / "generator.onnx", torch.export.Dim("batch", min=1, max=64)
    example = (model.noise(4), torch.arange(4) % 2)
    names = {"input_names": ["noise", "labels"], "output_names": ["samples"]}
    dynamic = [{0: batch}, {0: batch}]
    torch.onnx.export(model.generator, example, path, dynamo=True, verbose=False, dynamic_shapes=dynamic, **names)
    for size in (1, 7):
        given = model.noise(size), torch.arange(size) % 2
        with torch.no_grad():
            torch.testing.assert_close(run_onnx(path, given), {"samples": model.generate(*given)}, rtol=1e-4, atol=1e-5)


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    page = (ROOT / "docs/exporting.md").read_text()
    (code,) = re.findall(r"<!-- example: run by tests/zoo/test_export.py -->\n```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    with torch.no_grad():
        expected = names["model"](names["image"])
    for values, name in zip(names["outputs"], names["model"].objectives, strict=True):
        torch.testing.assert_close(torch.from_numpy(values), expected[name], rtol=1e-4, atol=1e-5)


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
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        reached |= {key: g for (key, _), g in zip(model.named_parameters(), gradients, strict=True) if g is not None}
    assert {key for key, _ in model.named_parameters()} == set(reached)
    assert all(gradient.isfinite().all() for gradient in reached.values())
