"""What save_pretrained stores of a model, and from_pretrained makes of it."""

import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import zoo
from tests.zoo.tiny import tiny
from zoo.shared_trunk import SharedTrunk

SIZES = {"in_features": 4, "classifiers": {"top_left": 3, "bottom_right": 2}, "regressors": {"z": 1, "a": 2}}


def numpy_numbers(value):
    """The same arguments, with numbers of numpy."""
    if isinstance(value, dict):
        return {key: numpy_numbers(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(numpy_numbers(item) for item in value)
    return value if isinstance(value, bool | str) or value is None else np.array([value])[0]


def configured(value):
    """The same arguments, in containers of OmegaConf."""
    return (
        OmegaConf.create(list(value) if isinstance(value, tuple) else value)
        if isinstance(value, tuple | dict)
        else value
    )


def restored(model, folder):
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder)


@pytest.mark.parametrize("kind", [numpy_numbers, configured])
@pytest.mark.parametrize("name", zoo.list_models())
def test_arguments_come_back_whatever_their_type(name, kind, tmp_path):
    arguments = {key: kind(value) for key, value in tiny(name).arguments.items()}
    model = zoo.create_model(name, **arguments).eval()
    other = restored(model, tmp_path)
    assert other.objectives == model.objectives
    inputs = tiny(name).inputs(2)
    outputs = model(*inputs)
    assert list(other(*inputs)) == list(outputs)
    for key, output in other(*inputs).items():
        assert torch.equal(output, outputs[key])
    assert restored(other, tmp_path / "again").objectives == model.objectives


def test_objectives_keep_their_order(tmp_path):
    model = SharedTrunk(**SIZES)
    assert restored(model, tmp_path).objectives == ("top_left", "bottom_right", "z", "a")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()), sort_keys=True))  # as folders of earlier versions are
    assert set(SharedTrunk.from_pretrained(tmp_path).objectives) == set(model.objectives)


def test_numbers_that_are_no_default_come_back(tmp_path):
    model = SharedTrunk(4, {"a": np.int64(3)}, {}, width=np.int32(8), depth=np.int64(6), dropout=np.float32(0.5))
    other = restored(model, tmp_path)
    assert len(other.trunk) == 6
    assert other.trunk[0][3].p == 0.5


def test_what_would_come_back_changed_is_not_saved(tmp_path):
    class Own(SharedTrunk):
        def __init__(self, activation=torch.relu, **sizes):
            super().__init__(**sizes)

    with pytest.raises(ValueError, match=r"Own: activation=.* cannot be stored in config.json"):
        Own(torch.tanh, **SIZES).save_pretrained(tmp_path)
    model = SharedTrunk(**SIZES)
    model.head["z"] = torch.nn.Linear(192, 5)
    with pytest.raises(ValueError, match="SharedTrunk: from_pretrained would restore a model with other shapes"):
        model.save_pretrained(tmp_path)
    model = SharedTrunk(**SIZES)
    model.objectives = model.objectives[::-1]
    with pytest.raises(ValueError, match="other objectives"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_saving_draws_no_random_numbers(tmp_path):
    model, state = SharedTrunk(**SIZES), torch.get_rng_state()
    model.save_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_are_loaded_strictly(tmp_path):
    SharedTrunk(**SIZES).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"depth": 5}))
    with pytest.raises(RuntimeError, match="Missing key"):
        SharedTrunk.from_pretrained(tmp_path)
