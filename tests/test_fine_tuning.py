"""Training that begins with other weights, keeps some of them, or goes on after its end."""

import re
import sys

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file, save_file

import mozoo
import train
from balancing import create_balancer
from mozoo import tools
from mozoo.fine_tuning import initialize, layer_scales
from zoo import create_model

PER_EPOCH = 1398 // 64
CONSTANT = ("scheduler=constant", f"trainer.max_steps={PER_EPOCH}")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(tools, "write_report", lambda *arguments: None)


@pytest.fixture
def train_in(stones, tmp_path):
    def start(name, *overrides):
        short = ("trainer.device=cpu", "trainer.batch_size=64", "logger.tensorboard=false", "model.width=16")
        train.run(mozoo.compose([f"task.csv={stones}", f"run_dir={tmp_path / name}", *short, *overrides]))
        return tmp_path / name

    return start


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command in this process; returns exit code, output and errors."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        GlobalHydra.instance().clear()
        code = 0
        try:
            train.main()
        except SystemExit as stop:
            code = stop.code
        GlobalHydra.instance().clear()
        return code, *capsys.readouterr()

    return call


def weights(folder):
    return load_file(folder / "best" / "model.safetensors")


def small_model(width=4, **classifiers):
    return create_model("shared_trunk", in_features=3, classifiers=classifiers, regressors={}, width=width, depth=1)


# ---- weights to begin with -------------------------------------------------------------------------------------------


def test_run_begins_with_the_weights_of_another_and_says_so(train_in, capsys):
    first = train_in("first", *CONSTANT)
    second = train_in("second", f"init={first}", "optimizer.lr=1e-12", *CONSTANT)
    for name, tensor in weights(first).items():
        torch.testing.assert_close(weights(second)[name], tensor, rtol=0, atol=1e-9)
    assert f"12 of 12 tensors from {first}" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["run", "best", "safetensors", "pt", "checkpoint", "wrapped"])
def test_every_form_of_weights_gives_the_same_model(tmp_path, form):
    source, model = small_model(a=2), small_model(a=2)
    state = source.state_dict()
    places = {"run": tmp_path, "best": tmp_path / "best", "safetensors": tmp_path / "w.safetensors"}
    path = places.get(form, tmp_path / "w.pt")
    if form in ("run", "best", "safetensors"):
        (tmp_path / "best").mkdir()
        save_file(state, path if form == "safetensors" else tmp_path / "best" / "model.safetensors")
    elif form == "wrapped":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    else:
        torch.save({"model": state} if form == "checkpoint" else state, path)
    assert initialize(model, str(path)) == f"4 of 4 tensors from {path}"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_new_head_keeps_its_own_weights_and_what_is_left_out_is_named(tmp_path):
    source, model = small_model(a=2, c=5, gone=3), small_model(a=2, c=7, new=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save(source.state_dict(), tmp_path / "w.pt")
    told = initialize(model, str(tmp_path / "w.pt"))
    assert told.startswith("4 of 8 tensors")
    assert "untouched: head.c.weight, head.c.bias, head.new.weight, head.new.bias" in told
    assert "left out of the file: head.c.weight (5, 4) for (7, 4)" in told
    assert "head.gone.weight" in told
    for name, tensor in model.state_dict().items():
        expected = before if name.startswith(("head.c", "head.new")) else source.state_dict()
        assert torch.equal(tensor, expected[name])


def test_weights_of_the_hub_are_downloaded_by_name(tmp_path, monkeypatch):
    source, model = small_model(a=2), small_model(a=2)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    asked = []
    download = lambda *words: asked.append(words) or str(tmp_path / "w.safetensors")  # noqa: E731
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert initialize(model, "hf-hub:someone/model") == "4 of 4 tensors from hf-hub:someone/model"
    assert asked == [("someone/model", "model.safetensors"), ("someone/model", "config.json")]


def unreadable(kind, path):
    if kind == "nothing there":
        return path / "nowhere.pt", "there is no"
    (path / "best").mkdir()
    file = path / "w.pt"
    if kind == "empty folder":
        return path, "best/model.safetensors"
    if kind == "not complete":
        file.write_bytes(b"PK half")
    elif kind == "more than weights":
        torch.save({"model": small_model(a=2)}, file)
        return file, "as weights alone"
    elif kind == "no weights":
        torch.save({"epoch": 3}, file)
        return file, "no weights by name"
    else:
        torch.save({"other": torch.ones(3)}, file)
        return file, "no tensor fits by name and shape; it has other"
    return file, "cannot be read"


@pytest.mark.parametrize(
    "kind", ["nothing there", "empty folder", "not complete", "more than weights", "no weights", "no fit"]
)
def test_weights_that_cannot_be_taken_are_one_message(tmp_path, kind):
    path, told = unreadable(kind, tmp_path)
    with pytest.raises(mozoo.ConfigError, match=re.escape(told)):
        initialize(small_model(a=2), str(path))


def test_resumed_run_does_not_need_the_weights_that_it_began_with(train_in, tmp_path, command):
    torch.save(weights(train_in("first", *CONSTANT)), tmp_path / "w.pt")
    second = train_in("second", f"init={tmp_path / 'w.pt'}", *CONSTANT)
    (tmp_path / "w.pt").unlink()
    assert command(f"resume={second}")[0] == 0


# ---- parts that keep their weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("balancer", ["sum", "mgda", "gradnorm", "graddrop", "famo"])
def test_frozen_trunk_keeps_weights_and_statistics(train_in, balancer):
    first = train_in("first", "model.norm=batch", *CONSTANT)
    words = (f"init={first}", "freeze=[trunk]", f"balancer={balancer}", "model.norm=batch", *CONSTANT)
    second = train_in(balancer, *words)
    for name, tensor in weights(first).items():
        assert torch.equal(weights(second)[name], tensor) == name.startswith("trunk"), name


def test_frozen_head_and_module_keep_their_weights(train_in):
    first = train_in("first", *CONSTANT)
    second = train_in("second", f"init={first}", "freeze=[head.cut,trunk.0]", "optimizer.per_network=true", *CONSTANT)
    for name, tensor in weights(first).items():
        assert torch.equal(weights(second)[name], tensor) == name.startswith(("head.cut", "trunk.0")), name


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("freeze=[trnk]",), "did you mean trunk"),
        (("freeze=[encoder]",), "choose from trunk, heads"),
        (("freeze=[trunk,heads]",), "nothing to train"),
        (("model=gan_points", "task=ring_of_gaussians", "freeze=[generator]"), "phase generator"),
        (("optimizer.layer_decay=0.5",), "needs a timm trunk"),
    ],
)
def test_part_that_cannot_be_frozen_is_one_message(words, told):
    config = mozoo.compose(["trainer.device=cpu", "trainer.dry_run=true", *words])
    with pytest.raises(mozoo.ConfigError, match=re.escape(told)):
        train.run(config)


# ---- a rate per layer ------------------------------------------------------------------------------------------------


def test_rates_fall_from_the_heads_to_the_first_layer():
    model = create_model(
        "shared_trunk_timm", backbone="resnet10t", in_channels=3, image_size=32, classifiers={"a": 2}, regressors={}
    )
    scales = layer_scales(model, 0.5)
    trunk = dict(model.named_parameters())
    assert not set(scales) & {*model.head.parameters()}
    assert max(scales.values()) == 1.0
    first = min(scales.values())
    stem = {name for name, parameter in trunk.items() if scales.get(parameter) == first}
    assert stem
    assert all(".conv1." in name or ".bn1." in name for name in stem)
    config = mozoo.compose(["optimizer.layer_decay=0.5", "optimizer.weight_decay=0.1"])
    phase = tools.build_phase_optimizer(model, model.phases[0], create_balancer("sum", ["a"]), config, total_steps=10)
    phase.schedule(5)
    rates = {p: group["lr"] for group in phase.optimizers["all"].param_groups for p in group["params"]}
    decays = {p: group["weight_decay"] for group in phase.optimizers["all"].param_groups for p in group["params"]}
    assert rates.keys() == {*model.parameters()}
    for parameter, rate in rates.items():
        assert rate == pytest.approx(phase.lr * scales.get(parameter, 1.0))
        assert decays[parameter] == (0.0 if parameter.dim() < 2 else 0.1)


def test_constant_rate_keeps_the_factor_of_its_layer():
    model = create_model(
        "shared_trunk_timm", backbone="resnet10t", in_channels=3, image_size=32, classifiers={"a": 2}, regressors={}
    )
    config = mozoo.compose(["optimizer.layer_decay=0.5", "scheduler=constant", "optimizer.lr=0.1"])
    phase = tools.build_phase_optimizer(model, model.phases[0], create_balancer("sum", ["a"]), config, total_steps=10)
    for step in range(2):
        phase.schedule(step, factor=0.5)
        scales = {group["lr_scale"]: group["lr"] for group in phase.optimizers["all"].param_groups}
        assert len(scales) > 3
        assert scales == pytest.approx({scale: 0.05 * scale for scale in scales})


# ---- more epochs -----------------------------------------------------------------------------------------------------


def test_longer_training_of_a_finished_run_equals_one_that_was_as_long(train_in, command, tmp_path):
    finished = train_in("short", "scheduler=constant", "trainer.epochs=1")
    code, _, err = command(f"resume={finished}", "trainer.epochs=2")
    assert (code, err) == (0, "")
    whole = train_in("long", "scheduler=constant", "trainer.epochs=2")
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(finished)[name], tensor)
    assert "epochs: 2" in (finished / "config.yaml").read_text()
    assert f"&& python train.py resume={finished} trainer.epochs=2" in (finished / "summary.json").read_text()
    assert command(f"resume={finished}")[0] == 0  # and it is as long from now on


@pytest.mark.parametrize(
    ("first", "words", "told"),
    [
        (("trainer.epochs=2",), ("trainer.epochs=1",), "give it a larger one"),
        (("trainer.epochs=1", "trainer.max_steps=9"), ("trainer.max_steps=30",), "ended within an epoch"),
        (("trainer.epochs=1",), ("trainer.epochs=2", "seed=3"), "leave out seed=3"),
    ],
)
def test_length_that_a_run_cannot_have_is_refused_and_nothing_written(train_in, command, first, words, told):
    folder = train_in("run", *first)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, out, err = command(f"resume={folder}", *words)
    assert code == 2
    assert told in err
    assert "Traceback" not in out + err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
