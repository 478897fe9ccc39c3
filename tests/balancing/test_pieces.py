"""Methods that need whole gradients read them in pieces, whose size and layout change nothing."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.problems import core

NAMES = ("a", "b", "c")


def leaves(dtypes=(torch.float32,) * 4):
    """Parameters of which one lies in memory as images with the channels last, and one is reached by two losses alone."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((3,), (4, 3, 2, 2), (2, 5), ())
    made = [torch.randn(shape, generator=generator).to(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    made[1] = made[1].to(memory_format=torch.channels_last)
    return [leaf.requires_grad_() for leaf in made]


def losses(parameters):
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    y = torch.nn.functional.conv2d(x.to(memory_format=torch.channels_last), parameters[1].float())
    size = parameters[0].square().sum()
    return {
        "a": y.square().mean() * (1 + size) + parameters[2].sum().square(),
        "b": (y - 1).square().mean() + (parameters[0] - 1).square().sum() + parameters[3].float().exp(),
        "c": y.abs().mean() + 1 + (parameters[2].float() * parameters[0][0]).sum().square() + parameters[3].square(),
    }


def flat_rows(parameters):
    """The (3, P) gradients, each in the order of its dimensions."""
    rows = []
    for loss in losses(parameters).values():
        pieces = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(pieces, parameters, strict=True)]
        rows.append(torch.cat([g.reshape(-1).float() for g in filled]))
    return torch.stack(rows)


def flat(tensors):
    return torch.cat([tensor.reshape(-1).float() for tensor in tensors])


@pytest.mark.parametrize("name", ["moco", "db_mtl", "excess_mtl", "trimmed_mean", "conflict_free_momentum", "graddrop"])
@pytest.mark.parametrize(
    "dtypes", [(torch.float32,) * 4, (torch.float32, torch.float32, torch.bfloat16, torch.float64)]
)
def test_size_of_the_pieces_changes_nothing(name, dtypes, monkeypatch):
    def train(piece):
        monkeypatch.setattr("balancing.measuring.pieces.PIECE", piece)
        parameters, balancer = leaves(dtypes), create_balancer(name, NAMES, seed=2)
        for _ in range(4):
            for parameter in parameters:
                parameter.grad = None
            balancer.backward(losses(parameters), shared=parameters)
            with torch.no_grad():
                for parameter in parameters:
                    parameter -= 0.01 * parameter.grad
        return flat(parameters), core(balancer).memory

    (wanted, memory), (found, found_memory) = train(1 << 16), train(8)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
    for key, value in memory.items():
        torch.testing.assert_close(found_memory[key], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("piece", [4, 1 << 16])
def test_memory_is_a_matrix_with_the_coordinates_in_the_order_of_the_parameters(piece, monkeypatch):
    """So a state of an earlier version, which kept the rows in one matrix, is continued."""
    monkeypatch.setattr("balancing.measuring.pieces.PIECE", piece)
    parameters = leaves()
    j = flat_rows(parameters)
    values = torch.stack([loss.detach() for loss in losses(parameters).values()])
    m = torch.randn(j.shape, generator=torch.Generator().manual_seed(3))
    balancer = create_balancer("db_mtl", NAMES)
    core(balancer).memory["m"] = m.clone()
    balancer.load_state_dict(balancer.state_dict())
    balancer.backward(losses(parameters), shared=parameters)
    m = 0.9 * m + 0.1 * j / (values[:, None] + 1e-8)
    torch.testing.assert_close(core(balancer).memory["m"], m)
    lengths = m.norm(dim=1)
    torch.testing.assert_close(flat([p.grad for p in parameters]), (lengths.max() / lengths) @ m)
    assert parameters[1].grad.shape == parameters[1].shape


def test_excess_risks_are_those_of_gradients_with_their_factors():
    """The rows themselves stay as they are, and the update is made of them."""
    parameters, priorities = leaves(), {"a": 3.0, "b": 1.0, "c": 0.5}
    j = flat_rows(parameters)
    balancer = create_balancer("excess_mtl", NAMES, normalize="l2", preference=priorities)
    weights = balancer.backward(losses(parameters), shared=parameters).weights.float()
    unit = j / j.norm(dim=1, keepdim=True)
    torch.testing.assert_close(core(balancer).memory["squares"], unit.square())
    torch.testing.assert_close(flat([p.grad for p in parameters]), weights @ j)
