"""Fashion-MNIST from small files in the public format, and the tasks that are made of it."""

import gzip
import hashlib
import io
import struct
from pathlib import Path

import pytest
import torch

from tasks import DataError, fashion
from tasks.compressed_fashion import CompressedFashion
from tasks.fashion import PixelData, fashion_splits, read_fashion
from tasks.multi_fashion import MultiFashion, overlay
from tasks.two_view_fashion import TwoViewFashion

TASKS = [CompressedFashion, MultiFashion, TwoViewFashion]


def idx(values):
    """A uint8 tensor as the bytes of an IDX file."""
    return bytes((0, 0, 8, values.dim())) + struct.pack(f">{values.dim()}I", *values.shape) + values.numpy().tobytes()


@pytest.fixture
def files(monkeypatch):
    """Name -> bytes of 48 + 24 images; nothing else is found, and their checksums count as the published ones."""
    random, made = torch.Generator().manual_seed(0), {}
    for prefix, count in (("train", 48), ("t10k", 24)):
        images = torch.randint(0, 256, (count, 28, 28), generator=random, dtype=torch.uint8)
        made[f"{prefix}-images-idx3-ubyte"] = idx(images)
        made[f"{prefix}-labels-idx1-ubyte"] = idx((torch.arange(count) % 10).to(torch.uint8))
    monkeypatch.setattr(fashion, "_SHA256", {name: hashlib.sha256(data).hexdigest() for name, data in made.items()})
    monkeypatch.setattr(fashion, "_DEBIAN", Path("/nowhere"))
    return made


@pytest.fixture
def folder(files, tmp_path):
    """The files, plain."""
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("place", [".", "FashionMNIST/raw"])
@pytest.mark.parametrize("packed", [False, True])
def test_files_are_found_plain_and_gzipped(files, tmp_path, place, packed):
    for name, data in files.items():
        path = tmp_path / place / (f"{name}.gz" if packed else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data) if packed else data)
    images, labels = read_fashion(tmp_path, "train")
    assert (images.shape, images.dtype) == ((48, 28, 28), torch.uint8)
    assert idx(images) == files["train-images-idx3-ubyte"]
    assert labels.tolist() == [index % 10 for index in range(48)]


def test_debians_package_is_the_published_data(tmp_path):
    if not fashion._DEBIAN.is_dir():
        pytest.skip("needs the package dataset-fashion-mnist")
    images, labels = read_fashion(tmp_path, "train")
    assert abs(float(images.double().mean()) / 255 - 0.2860) < 5e-5
    assert torch.bincount(labels.long()).tolist() == [6000] * 10


def test_missing_data_are_one_error_with_both_ways_to_get_them(files, tmp_path):
    with pytest.raises(DataError, match=r"(?s)no train-images.*nowhere.*apt-get install .*task\.download=true"):
        read_fashion(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda data: data[:-1], "announces 48 values and has 47"),
        (lambda data: data + b"\0", "announces 48 values and has 49"),
        (lambda data: b"", "no IDX file"),
        (lambda data: b"<html>" + data[6:], "no IDX file"),
        (lambda data: data[:-1] + b"\x09", "its checksum differs"),
    ],
)
def test_damage_names_the_file(files, folder, change, complaint):
    path = folder / "train-labels-idx1-ubyte"
    path.write_bytes(change(files[path.name]))
    with pytest.raises(DataError, match=f"train-labels-idx1-ubyte .*{complaint}"):
        read_fashion(folder, "train")


def test_truncated_gzip_names_the_file(files, folder):
    name = "train-labels-idx1-ubyte"
    (folder / name).unlink()
    (folder / f"{name}.gz").write_bytes(gzip.compress(files[name])[:-9])
    with pytest.raises(DataError, match=f"cannot read .*{name}.gz"):
        read_fashion(folder, "train")


class Answer(io.BytesIO):
    """What a server sends."""

    headers: dict[str, str] = {}


def test_download_keeps_only_what_is_right(files, tmp_path, monkeypatch):
    served = {f"{name}.gz": gzip.compress(data) for name, data in files.items()}
    monkeypatch.setattr(fashion.urllib.request, "urlopen", lambda url, timeout: Answer(served[url.rpartition("/")[2]]))
    assert len(read_fashion(tmp_path, "train", download=True)[0]) == 48
    assert len(read_fashion(tmp_path, "train")[0]) == 48  # found again
    served["t10k-images-idx3-ubyte.gz"] = gzip.compress(b"something else")
    with pytest.raises(DataError, match="checksum differs"):
        read_fashion(tmp_path, "test", download=True)
    served["t10k-images-idx3-ubyte.gz"] = b"<html>"
    with pytest.raises(DataError, match="cannot download"):
        read_fashion(tmp_path, "test", download=True)
    assert sorted(path.name for path in (tmp_path / "FashionMNIST" / "raw").iterdir()) == [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]


def test_no_image_is_in_two_splits(folder):
    parts = [{bytes(image.numpy()) for image in images} for images, _ in fashion_splits(folder)]
    assert [len(part) for part in parts] == [44, 4, 24]
    assert len(set.union(*parts)) == 72


@pytest.mark.parametrize("make", TASKS)
def test_tasks_know_their_losses_and_repeat_themselves(make, folder):
    task, other = make(), make()
    train, again = task.splits(folder).train, other.splits(folder).train
    assert all(torch.equal(a, b) for a, b in zip(train.inputs, again.inputs, strict=True))
    batch = train.batch(torch.arange(5))
    assert all(tensor.dtype == torch.float32 and len(tensor) == 5 for tensor in batch.inputs)
    assert set(batch.targets) == {objective.name for objective in task.objectives}
    for losses in (task.initial_losses(task.splits(folder)), task.prior_losses(task.splits(folder))):
        assert all(0 < value < 3 for value in losses.values())


def test_pixel_data_scales_images_and_stays_what_it_is():
    data = PixelData((torch.tensor([[0], [255]], dtype=torch.uint8),), {"a": torch.tensor([1, 2])}).to("cpu")
    batch = data.batch(torch.tensor([1]))
    assert batch.inputs[0].tolist() == [[1.0]]
    assert batch.targets["a"].tolist() == [2]


def test_measurements_are_linear_in_the_image_and_standardised(folder):
    task = CompressedFashion(measurements=20)
    (values,), targets = task.splits(folder).train.inputs, task.splits(folder).train.targets
    assert (values.shape, targets["image"].shape) == ((44, 20), (44, 1, 32, 32))
    assert targets["image"][:, :, :2].count_nonzero() == 0
    torch.testing.assert_close(values.mean(0), torch.zeros(20), atol=1e-4, rtol=0)
    torch.testing.assert_close(values.std(0), torch.ones(20), atol=1e-4, rtol=0)
    measured = targets["image"].flatten(1) @ torch.randn(1024, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(values * measured.std(0) + measured.mean(0), measured, atol=1e-3, rtol=1e-4)
    assert not torch.equal(values, CompressedFashion(20, matrix_seed=1).splits(folder).train.inputs[0])


def test_psnr_of_a_known_error():
    task = CompressedFashion()
    objective = task.objectives[0]
    metric = objective.metrics["psnr"].make()
    target = torch.rand(4, 1, 32, 32)
    metric.update(*objective.criterion.labelled_pairs(target + 0.1, target))
    assert float(metric.compute()) == pytest.approx(20.0, abs=1e-3)


def test_views_are_the_two_halves(folder):
    images, labels = fashion_splits(folder)[2]
    test = TwoViewFashion(cut=10).splits(folder).test
    left, right = test.inputs
    assert torch.equal(torch.cat([left.view(-1, 28, 10), right[:, 0]], 2), images)
    assert all(torch.equal(values, labels.long()) for values in test.targets.values())


def test_overlay_keeps_the_brighter_pixel():
    first, second = torch.full((1, 28, 28), 100, dtype=torch.uint8), torch.full((1, 28, 28), 50, dtype=torch.uint8)
    canvas = overlay(first, second, canvas=36, offset=8)[0]
    assert canvas.shape == (36, 36)
    assert [int(canvas[place, place]) for place in (0, 20, 35)] == [100, 100, 50]
    assert int(canvas[0, 35]) == 0


@pytest.mark.parametrize(("options", "side"), [({}, 36), ({"offset": 6, "resize": 28}, 28)])
def test_every_image_comes_twice_in_each_place(folder, options, side):
    images, labels = fashion_splits(folder)[2]
    test = MultiFashion(**options).splits(folder).test
    assert test.inputs[0].shape == (48, 1, side, side)
    for values in test.targets.values():
        assert torch.equal(values.bincount(), 2 * labels.long().bincount())
    if side == 36:
        corners = {bytes(sample[0, :8, :28].contiguous().numpy()) for sample in test.inputs[0]}
        assert corners == {bytes(image[:8].contiguous().numpy()) for image in images}


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (CompressedFashion, {"measurements": 0}),
        (CompressedFashion, {"image_size": 27}),
        (TwoViewFashion, {"cut": 28}),
        (MultiFashion, {"offset": 9}),
        (MultiFashion, {"canvas": 27}),
        (MultiFashion, {"resize": 0}),
        (MultiFashion, {"copies": 0}),
    ],
)
def test_impossible_sizes_are_refused(make, wrong):
    with pytest.raises(ValueError, match="_fashion: "):
        make(**wrong)
