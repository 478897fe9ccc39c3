"""Earlier names: of options, one message; of states, a translation."""

import pytest
import torch

from balancing import PCGrad, create_balancer
from balancing.state import decode


@pytest.mark.parametrize(("old", "new"), [("every", "update_every"), ("ema", "weight_ema")])
def test_an_earlier_name_of_an_option_is_one_message_with_the_new_one(old, new):
    with pytest.raises(ValueError, match=f"^pcgrad: the option {old}= was renamed to {new}=$"):
        create_balancer("pcgrad", ("a", "b"), **{old: 2})
    with pytest.raises(ValueError, match=f"^pcgrad: the option {old}= was renamed to {new}=$"):
        PCGrad(("a", "b"), **{old: 2})


NAMES = ("method", "objectives", "options", "before")
FORMER = {"cache.weights": "held", "cache.heads": "held_first"}


def in_former_names(state, nested):
    """The state as an earlier version saved it: of a composition, that of the second method, and the first as ``before``."""
    former = {}
    for key, value in state.items():
        part, _, name = key.rpartition("_balancer.") if nested else ("gradient", "", key)
        name = FORMER.get(name, name)
        if name == "_extra_state":  # a mapping, without names
            value = {key: entry for key, entry in decode(value).items() if key not in NAMES}
        if part == "gradient":
            former[name] = value
        elif part == "loss" and name != "held_first":
            former[f"before.{name}"] = value
    if not nested:
        del former["held_first"]
    return former


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("sum", {}), ("uncertainty", {"weight_ema": 0.5}), ("pcgrad", {"update_every": 2}), ("moco", {})),
        *(
            (["uncertainty", "pcgrad"], {"update_every": 2}),
            (["uncertainty", "moco"], {}),
            (["dwa", "uncertainty"], {}),
        ),
    ],
)
def test_a_state_of_an_earlier_version_continues_bit_for_bit(name, options):
    weight = torch.linspace(-1, 1, 5, requires_grad=True)

    def steps(balancer, numbers):
        weight.grad = None
        for number in numbers:
            torch.manual_seed(number)
            losses = (torch.randn(2, 5) @ weight).square() + 0.1
            balancer.backward(dict(zip("ab", losses, strict=True)), shared=[weight])
        return weight.grad.clone()

    first, second = (create_balancer(name, ("a", "b"), **options) for _ in range(2))
    steps(first, range(3))
    second.load_state_dict(in_former_names(first.state_dict(), isinstance(name, list)))
    assert torch.equal(steps(second, range(3, 7)), steps(first, range(3, 7)))
    assert (second.step, second.skips) == (first.step, first.skips)


@pytest.mark.parametrize("name", ["forum", "moml"])
def test_a_bilevel_state_of_an_earlier_version_is_loaded(name):
    balancer = create_balancer(name, ("a", "b"))
    state = balancer.state_dict()
    result = balancer.load_state_dict(state | {"held": torch.ones(2)})
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
