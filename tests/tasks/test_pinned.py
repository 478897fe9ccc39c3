"""Data, labels, reference losses and class names of the tasks that need no download, pinned."""

from pathlib import Path

import pytest
import torch

from tasks import create_task

FASHION = Path("/usr/share/datasets/fashion-mnist")
CASES = {
    "diamonds": {},
    "diamonds in dollars": {"target": "price_usd"},
    "rooms": {"height": 24, "width": 32, "train": 3, "val": 2, "test": 2},
    "ring_of_gaussians": {"samples": 100},
    "grid_of_gaussians": {"samples": 100, "labels": True},
    "compressed_fashion": {},
    "two_view_fashion": {},
    "multi_fashion": {},
    "fashion_gan": {},
}
PINNED = {
    "diamonds": [
        -7930.185167044401,
        -3590.8228929042816,
        1.6094379124341003,
        0.9999999997790724,
        1.3725727324129016,
        0.9999999997790799,
    ],
    "diamonds in dollars": [
        -7930.185167044401,
        1495261.0,
        1.6094379124341003,
        31204161.775667228,
        1.3725727324129016,
        15794892.479063159,
    ],
    "rooms": [
        192766.40546873212,
        1299212.340050931,
        2.5649493574615367,
        3.325972066731926,
        1.0,
        2.3104466622061888,
        1.0458993204406715,
        0.4681442413224266,
    ],
    "ring_of_gaussians": [
        163.45959350164048,
        0.0,
        1.3862943649291992,
        0.6931471824645996,
        1.3862943649291992,
        0.6931471824645996,
    ],
    "grid_of_gaussians": [
        222.0265849190764,
        60266.0,
        1.3862943649291992,
        3.2188758248682006,
        0.6931471824645996,
        3.2188758248682006,
        1.3862943649291992,
        3.0853439714048725,
        0.6931471824645996,
        3.0853439714048725,
    ],
    "compressed_fashion": [
        -4770.196403254115,
        577393.0308434893,
        0.15794965237339242,
        2.302585092994046,
        0.11002732045150412,
        2.3025802481931072,
    ],
    "two_view_fashion": [
        571354.5326918126,
        26489.0,
        2.302585092994046,
        2.302585092994046,
        2.302585092994046,
        2.3025802481931072,
        2.3025802481931072,
        2.3025802481931072,
    ],
    "multi_fashion": [
        1004636.0787479151,
        20701.0,
        2.302585092994046,
        2.302585092994046,
        2.3025802481931072,
        2.3025802481931072,
    ],
    "fashion_gan": [
        -818883.274781704,
        21184.0,
        1.3862943649291992,
        2.302585092994046,
        0.6931471824645996,
        2.302585092994046,
        1.3862943649291992,
        2.3025802481931072,
        0.6931471824645996,
        2.3025802481931072,
    ],
}
GARMENTS = "T-shirt Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle boot"
CLASSES = {
    "diamonds": {"cut": "Fair Good Very Good Premium Ideal", "price": ""},
    "rooms": {
        "segmentation": "bed books ceiling chair floor furniture objects picture sofa table tv wall window",
        "depth": "",
        "normals": "",
    },
    "ring_of_gaussians": {"real_fake": "", "adversarial": ""},
    "grid_of_gaussians": {
        "real_fake": "",
        "real_class": " ".join(map(str, range(25))),
        "adversarial": "",
        "fake_class": " ".join(map(str, range(25))),
    },
    "compressed_fashion": {"image": "", "class": GARMENTS},
    "two_view_fashion": dict.fromkeys(("fused", "left", "right"), GARMENTS),
    "multi_fashion": dict.fromkeys(("top_left", "bottom_right"), GARMENTS),
    "fashion_gan": {"real_fake": "", "real_class": GARMENTS, "adversarial": "", "fake_class": GARMENTS},
}


def checksum(tensors):
    """Sum of all numbers, each times its place modulo 101."""
    values = torch.cat([tensor.double().flatten() for tensor in tensors])
    return float((values * (torch.arange(len(values)) % 101)).sum())


def numbers(task, splits):
    """Checksums of the inputs and labels of the first training samples, and the reference losses."""
    count = min(len(splits.train), 50)
    batches = (
        [splits.train.batch(torch.arange(count))]
        if hasattr(splits.train, "batch")
        else [splits.train[index] for index in range(count)]
    )
    inputs = [tensor for batch in batches for tensor in batch.inputs]
    labels = [batch.targets[name] for batch in batches for name in sorted(batch.targets)] or [torch.zeros(1)]
    losses = [*task.initial_losses(splits).values(), *task.prior_losses(splits).values()]
    return [checksum(inputs), checksum(labels), *losses]


# all pictures of compressed_fashion are compressed for its reference losses
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "compressed_fashion" else name for name in CASES]
)
def test_data_and_reference_losses_are_those_of_earlier_versions(name, tmp_path):
    if "fashion" in name and not FASHION.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    task = create_task(name.split()[0], **CASES[name])
    assert numbers(task, task.splits(tmp_path)) == pytest.approx(PINNED[name], rel=1e-5, abs=1e-6)
    names = {o.name: " ".join(getattr(o.criterion, "classes", ())) for o in task.objectives}
    assert names == CLASSES[name.split()[0]]
