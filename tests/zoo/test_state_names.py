"""Names, shapes and initial values in the ``state_dict`` of every model stay the same.

So saved weights stay readable, and a seed gives the same run. ``tests/zoo/state_names.json`` has them. After an intended change: ``python -m tests.zoo.test_state_names``.
"""

import json
from pathlib import Path

import pytest
import torch

import zoo
from tests.zoo.tiny import TINY, build

FILE = Path(__file__).with_name("state_names.json")
ONE = {"classifiers": {"a": 3}, "regressors": {}}
#: Options that change the names: case -> model, arguments besides those of the tiny instance.
OPTIONS = {
    "cross_stitch, one objective": ("cross_stitch", ONE),
    "dense_segnet, original": ("dense_segnet", {"original": True}),
    "dual_sum, no auxiliary loss": ("dual_sum", {"auxiliary": False}),
    "gan, no spectral norm": ("gan", {"spectral_norm": False, "classes": 0}),
    "gan_points, two discriminators": ("gan_points", {"discriminators": 2}),
    "mmoe, no towers": ("mmoe", {"tower_depth": 0}),
    "pinn, random frequencies": ("pinn", {"fourier": 3, "periodic": [1]}),
    "ple, one level": ("ple", {"levels": 1, "tower_depth": 0}),
    "ple, three levels": ("ple", {"levels": 3, "own_experts": 2}),
    "shared_trunk, batch norm": ("shared_trunk", {"norm": "batch"}),
    "shared_trunk, layer norm": ("shared_trunk", {"norm": "layer"}),
    "shared_trunk_timm, hidden layer": ("shared_trunk_timm", {"hidden": 4}),
}
CASES = {name: (name, {}) for name in TINY} | OPTIONS


def state(case):
    """Name -> shape and sum of absolute values, in the order of ``state_dict``."""
    name, options = CASES[case]
    tensors = build(name, **options).state_dict()
    return {key: [list(value.shape), float(f"{value.double().abs().sum():.6g}")] for key, value in tensors.items()}


def write():
    """Store the states of today's models, a line for each tensor."""
    cases = []
    for case in CASES:
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in state(case).items())
        cases.append(f"{json.dumps(case)}: {{\n{lines}\n}}")
    FILE.write_text("{\n" + ",\n".join(cases) + "\n}\n", encoding="utf-8")


@pytest.fixture(scope="module")
def stored():
    return json.loads(FILE.read_text(encoding="utf-8"))


def test_every_model_is_stored(stored):
    assert list(stored) == list(CASES)
    assert set(zoo.list_models()) <= set(stored)


@pytest.mark.parametrize("case", CASES)
def test_names_shapes_and_initial_values_stay(case, stored):
    today, expected = state(case), stored[case]
    assert [(key, shape) for key, (shape, _) in today.items()] == [(key, shape) for key, (shape, _) in expected.items()]
    sums = {key: total for key, (_, total) in today.items()}
    assert sums == pytest.approx({key: total for key, (_, total) in expected.items()}, rel=1e-4, abs=1e-6)


def test_a_seed_decides_the_initial_values():
    first = build("shared_trunk").state_dict()
    torch.manual_seed(1)
    other = zoo.create_model("shared_trunk", **TINY["shared_trunk"].arguments).state_dict()
    assert any(not torch.equal(value, other[key]) for key, value in first.items())


if __name__ == "__main__":
    write()
