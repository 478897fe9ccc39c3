"""DB-MTL equals its formulas."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import names, next_update, ones, rows
from tests.balancing.problems import Net, inputs, reference_rows


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_db_mtl_equals_the_formulas(decay):
    balancer = create_balancer("db_mtl", names(3), decay=decay, preference={"0": 2.0})
    m = torch.zeros(3, 9, dtype=torch.float64)
    for k in range(1, 6):
        h = rows("random", 3, k)
        m = h + 0.9 / k**decay * (m - h)
        n = m.norm(dim=1)
        wanted = (torch.tensor([1.5, 0.75, 0.75]) * n.max() / n) @ m
        torch.testing.assert_close(next_update(balancer, ones(3), h), wanted)


def test_db_mtl_sees_gradients_of_log_losses():
    net, x = Net(("a", "b")), inputs()
    balancer = create_balancer("db_mtl", ("a", "b"), beta=0.0)
    balancer.backward(net.losses(x))
    updates = net.gradients()
    losses, jacobian = net.losses(x), reference_rows(net, x)
    logs = {
        name: {key: g / losses[name].detach() for key, g in gradients.items()} for name, gradients in jacobian.items()
    }
    trunk = [key for key in updates if key.startswith("trunk")]
    length = {name: sum(logs[name][key].square().sum() for key in trunk).sqrt() for name in "ab"}
    for key, gradient in updates.items():
        if key in trunk:
            wanted = max(length.values()) * (logs["a"][key] / length["a"] + logs["b"][key] / length["b"])
        else:
            wanted = logs["a" if ".a." in key else "b"][key]
        torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="db_mtl: takes logarithms of the losses, so sum before it has no meaning"):
        create_balancer("db_mtl", ("a", "b"), before="sum")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"beta": 1.0}, "db_mtl: beta must be in"), ({"decay": -1.0}, "db_mtl: decay must not be negative")],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        create_balancer("db_mtl", ("a", "b"), **options)
