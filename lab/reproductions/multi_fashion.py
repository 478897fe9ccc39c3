"""Multi-Fashion: what decides the hypervolume of a front of networks.

    a network is a point: its cross-entropies on test samples, of the garment at the top left and of that at the bottom right
    hypervolume: the part of [0, 2] x [0, 2] that at least one network of a front dominates

The generator of the published data was never published. Its description leaves open how far apart the two garments are, and
the hypervolume depends on that. Our generator names its offset, so its values compare with nothing published, and
``multi_fashion_orderings`` checks orders only, with 6 pixels unless another offset is said:

    five weights, swept, reach more than five networks with equal weights do (more than one of these they cannot miss);
    methods that take preferences reach a stated share of the sweep;
    equal weights reach more at an offset of 8 than of 6, and of 6 than of 4, on average over five networks.

Sizes are ours as well: 10,000 training samples, 4 epochs of batches of 128, Adam with 3e-3, a LeNet of 15,240 weights.

``multi_fashion_pickle`` is for those who have the published ``multi_fashion.pickle`` and put it into ``data``. It sweeps five
weights as long as COSMOS trains, and expects the hypervolume that is published for that data.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from balancing import Balancer, create_balancer
from tasks import DataError, TensorData
from tasks.fashion import PixelData
from tasks.multi_fashion import MultiFashion
from tasks.scores import hypervolume
from zoo import create_model

NAMES = ("top_left", "bottom_right")
REFERENCE = (2.0, 2.0)
OFFSET, OTHERS = 6, (4, 8)
#: Weights of the first objective.
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
#: Wanted losses, as parts of the way from one axis to the other on the quarter circle.
PARTS = (0.3, 0.4, 0.5, 0.6, 0.7)
REACHED = 0.9
PREFERRING = ("pareto_mtl", "stch", "mgda")
PICKLE = Path("data", "multi_fashion.pickle")
Point = tuple[float, float]


def sweep() -> list[Balancer]:
    """Static weights of sum 2."""
    return [create_balancer("fixed", NAMES, values={NAMES[0]: 2 * w, NAMES[1]: 2 - 2 * w}) for w in SHARES]


def fronts() -> dict[str, list[Balancer]]:
    """Name of a front -> a balancer for each of its five networks."""
    rays = [[math.cos(part * math.pi / 2), math.sin(part * math.pi / 2)] for part in PARTS]
    # losses in inverse proportion to the preferences lie on the ray
    wanted = [{name: 1 / loss for name, loss in zip(NAMES, ray, strict=True)} for ray in rays]
    return {
        "equal weights": [create_balancer("sum", NAMES) for _ in SHARES],
        "sweep": sweep(),
        "pareto_mtl": [create_balancer("pareto_mtl", NAMES, rays=rays, index=k) for k in range(len(rays))],
        "stch": [create_balancer("stch", NAMES, mu=0.1, preference=each) for each in wanted],
        "mgda": [create_balancer("mgda", NAMES, preference=each) for each in wanted],
    }


def train(
    task: MultiFashion,
    data: TensorData,
    test: TensorData,
    balancer: Balancer,
    seed: int,
    epochs: int,
    batch_size: int,
    lr: float,
    network: Mapping[str, Any],
    milestones: Sequence[int] = (),
) -> Point:
    """Test losses of a LeNet; after each of the ``milestones`` the learning rate is a tenth."""
    torch.manual_seed(seed)
    device = data.inputs[0].device
    model: Any = create_model("shared_trunk_lenet", **task.info, **network).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(milestones))
    for _ in range(epochs):
        for index in torch.randperm(len(data)).to(device).split(batch_size):
            optimizer.zero_grad()
            losses, _ = task.losses(model, data.batch(index), "train")
            balancer.backward(losses, shared=model.shared_parameters())
            optimizer.step()
        schedule.step()
        balancer.next_epoch()
    sums = torch.zeros(len(NAMES), dtype=torch.float64)
    with torch.no_grad():
        for index in torch.arange(len(test), device=device).split(1000):
            losses, _ = task.losses(model, test.batch(index), "test")
            sums += len(index) * torch.stack([losses[name] for name in NAMES]).double().cpu()
    first, second = (sums / len(test)).tolist()
    return first, second


def run(
    seed: int, folder: Path, samples: int = 10_000, epochs: int = 4, network: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Train all fronts, and equal weights at other offsets, from the same five seeds."""
    network = network or {"channels": (5, 10)}
    trained: dict[int, dict[str, list[Point]]] = {}
    for offset in (OFFSET, *OTHERS):
        task = MultiFashion(offset=offset, copies=1)
        parts = task.splits()
        assert isinstance(parts.train, TensorData)
        assert isinstance(parts.test, TensorData)
        data, test = parts.train.first(samples), parts.test.first(samples)
        trained[offset] = {
            name: [
                train(task, data, test, each, 10 * seed + k, epochs, 128, 3e-3, network) for k, each in enumerate(five)
            ]
            for name, five in fronts().items()
            if offset == OFFSET or name == "equal weights"
        }
    return orders(trained[OFFSET], {offset: points["equal weights"] for offset, points in trained.items()})


def orders(fronts: Mapping[str, Sequence[Point]], equal: Mapping[int, Sequence[Point]]) -> dict[str, float]:
    """Hypervolumes, and 1 for each statement that they confirm.

    Args:
        fronts: Name of a front -> its points.
        equal: Offset -> networks with equal weights.
    """
    volumes = {name: hypervolume(front, REFERENCE) for name, front in fronts.items()}
    single = {k: fmean(hypervolume([point], REFERENCE) for point in points) for k, points in sorted(equal.items())}
    statements = {"sweep above five with equal weights": volumes["sweep"] > volumes["equal weights"]}
    for name in PREFERRING:
        statements[f"{name} reaches {REACHED:.0%} of the sweep"] = volumes[name] >= REACHED * volumes["sweep"]
    statements["rises with the offset"] = all(low < high for low, high in pairwise(single.values()))
    return {
        **{name: float(holds) for name, holds in statements.items()},
        **{f"hypervolume, {name}": volume for name, volume in volumes.items()},
        **{f"hypervolume, a network with equal weights, offset {offset}": volume for offset, volume in single.items()},
    }


# ---- the published data -----------------------------------------------------------------------------------------------

ARRAYS = {
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class Arrays(pickle.Unpickler):
    """Loads NumPy arrays only, as other pickles can run code."""

    def find_class(self, module: str, name: str) -> Any:
        """What arrays are made of. Raises UnpicklingError for anything else."""
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no array")
        return super().find_class(module, name)


def read_pickle(path: Path) -> tuple[TensorData, TensorData]:
    """Training and test samples from arrays: images (N, 36, 36) and labels (N, 2), twice.

    Raises DataError if the file is missing or another one.
    """
    if not path.is_file():
        raise DataError(f"no {path}: put the file there that the authors of Pareto MTL offer (Xi-L/ParetoMTL)")
    try:
        with path.open("rb") as file:
            parts = [torch.from_numpy(array) for array in Arrays(file).load()]
        first, second = (
            PixelData(
                ((images if images.dtype == torch.uint8 else images.float()).reshape(len(labels), 1, 36, 36),),
                dict(zip(NAMES, labels.long().unbind(1), strict=True)),
            )
            for images, labels in zip(parts[::2], parts[1::2], strict=True)
        )
    except (pickle.UnpicklingError, EOFError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise DataError(f"{path} is not the published file: {error}") from error
    return first, second


def run_pickle(
    seed: int, folder: Path, path: Path = PICKLE, epochs: int = 100, network: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """The sweep on the published data with optimizer, epochs and LeNet of COSMOS; last weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data, test = (part.to(device) for part in read_pickle(path))
    network = network or {"channels": (10, 20), "kernels": (5, 5)}
    steps = [epochs * tenths // 100 for tenths in (20, 40, 80, 90)]
    task = MultiFashion()
    points = [train(task, data, test, each, seed, epochs, 256, 1e-3, network, steps) for each in sweep()]
    return {"hypervolume, sweep": hypervolume(points, REFERENCE)}


RUNS = {"multi_fashion_orderings": run, "multi_fashion_pickle": run_pickle}
