"""Message passing over molecules: symmetries, padding, and the network of the published tables on torch_geometric's layers."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zoo
from tests.tasks.test_qm9 import build_raw, qm9
from tests.zoo.tiny import atoms, build
from zoo import molecules_nnconv

NAMES = ("molecules", "molecules_nnconv")


def inputs(name, size=5):
    torch.manual_seed(1)
    given = atoms(size)
    return given if name == "molecules_nnconv" else given[:2]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return build(name).double().eval()


def doubled(given):
    return tuple(each.double() if each.is_floating_point() else each for each in given)


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_motions_and_mirrors_do_not_matter(name, model):
    numbers, positions, *bonds = doubled(inputs(name))
    turn = torch.linalg.qr(torch.randn(3, 3).double())[0]
    for rotation in (turn, turn * torch.tensor([1.0, 1.0, -1.0])):
        assert_same(model(numbers, positions @ rotation + torch.randn(3), *bonds), model(numbers, positions, *bonds))


def test_order_of_atoms_does_not_matter(name, model):
    numbers, positions, *bonds = doubled(inputs(name))
    order = torch.randperm(6)
    moved = [each[:, order][:, :, order] for each in bonds]
    assert_same(model(numbers[:, order], positions[:, order], *moved), model(numbers, positions, *bonds))


def test_padding_does_not_matter(name, model):
    numbers, positions, *bonds = doubled(inputs(name))
    wide = [F.pad(numbers, (0, 3)), F.pad(positions, (0, 0, 0, 3), value=0.7), *(F.pad(b, (0, 3, 0, 3)) for b in bonds)]
    assert_same(model(*wide), model(numbers, positions, *bonds))


def test_positions_matter_and_have_derivatives(name, model):
    numbers, positions, *bonds = doubled(inputs(name))
    positions.requires_grad_()
    (slope,) = torch.autograd.grad(model(numbers, positions, *bonds)["b"].sum(), positions)
    assert slope.isfinite().all()
    assert slope[numbers > 0].abs().max() > 1e-6
    assert (slope[numbers == 0] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoff": 0.5}, "cutoff must be above 0.8"),
        ({"bumps": 1}, "bumps must be at least 2"),
        ({"depth": 0}, "depth"),
    ],
)
def test_sizes_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"molecules: {message}"):
        build("molecules", **options)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_geometric.nn", None)
    with pytest.raises(ValueError, match=r"molecules_nnconv needs torch_geometric .*mozoo\[molecules\]"):
        zoo.create_model("molecules_nnconv", classifiers={}, regressors={"a": 1})


class Published(nn.Module):
    """The network of the tables, from torch_geometric's layers on torch_geometric's batches."""

    def __init__(self, names, width=64):
        from torch_geometric.nn import NNConv, Set2Set

        super().__init__()
        self.first = nn.Linear(11, width)
        self.conv = NNConv(
            width, width, nn.Sequential(nn.Linear(5, 128), nn.ReLU(), nn.Linear(128, width**2)), aggr="mean"
        )
        self.gru = nn.GRU(width, width)
        self.pool = Set2Set(width, processing_steps=3)
        self.last = nn.Linear(2 * width, width)
        self.head = nn.ModuleDict({name: nn.Linear(width, 1) for name in names})

    def forward(self, data):
        out = F.relu(self.first(data.x))
        state = out.unsqueeze(0)
        for _ in range(3):
            message = F.relu(self.conv(out, data.edge_index, data.edge_attr))
            out, state = self.gru(message.unsqueeze(0), state)
            out = out.squeeze(0)
        out = F.relu(self.last(self.pool(out, data.batch)))
        return {name: head(out) for name, head in self.head.items()}


def graphs(numbers, positions, bonds):
    """The molecules as torch_geometric holds them, complete, with its own distances."""
    from torch_geometric.data import Batch, Data
    from torch_geometric.transforms import Distance

    found = []
    for z, place, kinds in zip(numbers, positions, bonds, strict=True):
        size = int((z > 0).sum())
        z, place, kinds = z[:size], place[:size], kinds[:size, :size].long()
        edges = torch.tensor([(a, b) for a in range(size) for b in range(size) if a != b]).T
        x = torch.zeros(size, 11, dtype=place.dtype)
        for atom, number in enumerate(z.tolist()):
            x[atom, {1: 0, 6: 1, 7: 2, 8: 3, 9: 4}[number]] = 1
            x[atom, 5], x[atom, 10] = number, sum(z[kinds[atom] > 0] == 1)
        kind = F.one_hot(kinds[edges[0], edges[1]], 5)[:, 1:].to(place.dtype)
        found.append(Distance(norm=False)(Data(x=x, pos=place, edge_index=edges, edge_attr=kind)))
    return Batch.from_data_list(found)


def test_it_is_the_published_network():
    pytest.importorskip("torch_geometric")
    torch.manual_seed(0)
    names = ["mu", "U0"]
    published = Published(names).double()
    model = zoo.create_model("molecules_nnconv", classifiers={}, regressors=dict.fromkeys(names, 1)).double()
    theirs = list(published.state_dict().values())
    assert [value.shape for value in model.state_dict().values()] == [value.shape for value in theirs]
    model.load_state_dict(dict(zip(model.state_dict(), theirs, strict=True)))
    given = doubled(atoms(7))
    outputs, expected = model(*given), published(graphs(*given))
    assert_same(outputs, expected)
    mine, reference = (
        torch.autograd.grad(sum(value.square().sum() for value in each.values()), list(network.parameters()))
        for each, network in ((outputs, model), (expected, published))
    )
    assert_same(mine, reference)


def test_inputs_are_those_that_torch_geometric_makes_of_the_raw_files(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torch_geometric.datasets")
    pytest.importorskip("rdkit")
    build_raw(tmp_path / "QM9/raw")
    theirs = datasets.QM9(str(tmp_path / "QM9"))
    monkeypatch.setattr("numpy.random.RandomState", lambda seed: SimpleNamespace(permutation=torch.arange))
    monkeypatch.setattr("torch.from_numpy", torch.as_tensor)
    test, val, train = reversed(list(qm9(train=None, bonds=True).splits(tmp_path)))
    numbers, positions, bonds = (torch.cat(each) for each in zip(test.inputs, val.inputs, train.inputs, strict=True))
    described = molecules_nnconv.atom_features(numbers, bonds)
    assert len(theirs) == len(numbers)
    for index, graph in enumerate(theirs):
        size, (first, second) = len(graph.x), graph.edge_index
        assert torch.equal(described[index, :size], graph.x)
        assert torch.equal(positions[index, :size], graph.pos)
        assert torch.equal(F.one_hot(bonds[index][first, second].long(), 5)[:, 1:].float(), graph.edge_attr)
        assert (bonds[index] > 0).sum() == len(first)


def test_atoms_are_described_as_torch_geometric_does():
    numbers = torch.tensor([[6, 1, 8, 0]])
    bonds = torch.zeros(1, 4, 4, dtype=torch.uint8)
    bonds[0, 0, 1] = bonds[0, 1, 0] = 1
    bonds[0, 0, 2] = bonds[0, 2, 0] = 2
    expected = [
        [0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 1],
        [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 8, 0, 0, 0, 0, 0],
        [0] * 11,
    ]
    assert molecules_nnconv.atom_features(numbers, bonds)[0].tolist() == expected
