"""Public layouts of dense data, made here in exactly their conventions, whole and damaged."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tasks import DataError, create_task

H, W = 16, 24


def unit(random):
    normals = random.randn(H, W, 3)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    normals[-2:] = 0
    return normals


def arrays(index, classes=13):
    """One sample as MTAN's files have it: float64 image and normals, float labels, metric depth with a last axis."""
    random = np.random.RandomState(index)
    label = random.randint(-1, classes, (H, W)).astype(np.float32)
    depth = random.uniform(0.5, 9, (H, W, 1)).astype(np.float32)
    depth[:2] = 0
    return {"image": random.rand(H, W, 3), "label": label, "depth": depth, "normal": unit(random)}


def save(root, counts, classes=13, kinds=("image", "label", "depth", "normal"), rename=None):
    for split, count in counts.items():
        for kind in kinds:
            folder = root / split / (rename or {}).get(kind, kind)
            folder.mkdir(parents=True)
            for i in range(count):
                np.save(folder / f"{i}.npy", arrays(i, classes)[kind])
    return root


@pytest.fixture
def nyuv2(tmp_path):
    return save(tmp_path / "nyuv2", {"train": 10, "val": 4})


def test_nyuv2_is_read_in_the_conventions_of_its_files(nyuv2):
    task = create_task("nyuv2", validation=0.2, augment=False)
    train, val, test = task.splits(nyuv2.parent)
    assert (len(train), len(val), len(test)) == (8, 2, 4)
    (image,), targets = train[3]
    disk = arrays(3)
    assert {name: (value.dtype, tuple(value.shape)) for name, value in targets.items()} == {
        "segmentation": (torch.int64, (H, W)),
        "depth": (torch.float32, (1, H, W)),
        "normals": (torch.float32, (3, H, W)),
    }
    np.testing.assert_array_equal(image.permute(1, 2, 0), disk["image"].astype(np.float32))
    np.testing.assert_array_equal(targets["segmentation"], disk["label"])
    np.testing.assert_array_equal(targets["depth"][0], disk["depth"][..., 0])
    np.testing.assert_array_equal(targets["normals"].permute(1, 2, 0), disk["normal"].astype(np.float32))
    assert task.info == {
        "in_channels": 3,
        "segmentation_classes": 13,
        "maps": ("segmentation", "depth", "normals"),
    }


def test_validation_is_held_out_of_training_and_test_is_the_public_one(nyuv2):
    train, val, test = create_task("nyuv2", augment=False).splits(nyuv2.parent)
    shown = [batch.inputs[0].numpy().tobytes() for part in (train, val) for batch in part]
    assert len(set(shown)) == 10
    assert torch.equal(test[2].inputs[0], create_task("nyuv2", augment=False).splits(nyuv2.parent).test[2].inputs[0])
    _, val, test = create_task("nyuv2", validation=0).splits(nyuv2.parent)
    assert val is test


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64])
def test_any_type_of_image_is_accepted(nyuv2, dtype):
    image = arrays(0)["image"]
    np.save(
        nyuv2 / "train/image/0.npy", np.rint(image * 255).astype(dtype) if dtype == np.uint8 else image.astype(dtype)
    )
    loaded = create_task("nyuv2", augment=False).splits(nyuv2.parent).train[0].inputs[0]
    np.testing.assert_allclose(loaded.permute(1, 2, 0), image, atol=0.003)


def broken(path, change):
    if callable(change):
        np.save(path, change(np.load(path)))
    else:
        path.write_bytes(path.read_bytes()[:change])


def with_value(value):
    def change(array):
        array = array.copy()
        array.flat[7] = value
        return array

    return change


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        ("image/2.npy", 500, "damaged"),
        ("image/2.npy", 0, "damaged"),
        ("label/2.npy", 100, "damaged"),
        ("image/2.npy", lambda a: a[..., :2], r"an image must be \(H, W, 3\)"),
        ("image/2.npy", lambda a: a * 255, r"an image must be in \[0, 1\]"),
        ("image/2.npy", with_value(np.nan), r"an image must be in \[0, 1\]"),
        ("label/2.npy", with_value(13), "labels must be whole numbers from -1 to 12"),
        ("label/2.npy", with_value(255), "labels must be"),
        ("label/2.npy", lambda a: a.astype(str), "its numbers are"),
        ("label/2.npy", with_value(1.5), "labels must be"),
        ("label/2.npy", with_value(np.nan), "labels must be"),
        ("label/2.npy", lambda a: a[:-1], "it is 15 x 24 pixels, its image 16 x 24"),
        ("depth/2.npy", with_value(np.nan), "depth must be finite"),
        ("depth/2.npy", with_value(np.inf), "depth must be finite"),
        ("depth/2.npy", with_value(-1), "depth must be finite and not negative"),
        ("depth/2.npy", lambda a: np.repeat(a, 2, axis=2), "depth must be"),
        ("normal/2.npy", with_value(np.nan), "normals must have length 1"),
        ("normal/2.npy", lambda a: a * 127, "normals must have length 1"),
        ("normal/2.npy", lambda a: a / 2 + 0.5, "do its numbers from 0 to 1 stand for -1 to 1"),
        ("normal/2.npy", lambda a: a * 0.6, "divide by the length"),
        ("depth/2.npy", with_value(1e6), "its depth must be at most 100000"),
        ("normal/2.npy", lambda a: a.astype(str), "its numbers are"),
        ("normal/2.npy", lambda a: np.array([None]), "damaged"),
    ],
)
def test_a_damaged_file_is_named_at_the_start(nyuv2, file, change, problem):
    broken(nyuv2 / "train" / file, change)
    with pytest.raises(DataError, match=problem) as caught:
        create_task("nyuv2").splits(nyuv2.parent)
    assert str(nyuv2 / "train" / file) in str(caught.value)


@pytest.mark.parametrize(
    ("removed", "problem"),
    [
        (["train/depth/9.npy"], r"depth has 9 files, but .*image has 10"),
        (["train/label/4.npy"], r"label has no 4\.npy"),
        ([f"val/normal/{i}.npy" for i in range(4)], r"normal has no \.npy files"),
        ([f"train/image/{i}.npy" for i in range(10)], r"image has no \.npy files"),
    ],
)
def test_a_partial_set_is_refused_before_anything_is_read(nyuv2, removed, problem):
    for name in removed:
        (nyuv2 / name).unlink()
    with pytest.raises(DataError, match=problem):
        create_task("nyuv2").splits(nyuv2.parent)


@pytest.mark.parametrize("name", ["nyuv2", "cityscapes"])
def test_a_missing_set_says_where_it_was_looked_for_and_where_to_get_it(tmp_path, name):
    with pytest.raises(DataError, match="unpack them to") as caught:
        create_task(name).splits(tmp_path)
    message = str(caught.value)
    assert str(tmp_path / name / "train/image") in message
    assert "https://github.com/lorenmt/mtan" in message
    with pytest.raises(DataError, match="elsewhere"):
        create_task(name, root=str(tmp_path / "elsewhere")).splits(tmp_path)


def test_augmentation_follows_from_seed_epoch_and_index(nyuv2):
    train = create_task("nyuv2").splits(nyuv2.parent).train

    def images(epoch, workers=0):
        train.set_epoch(5, epoch)
        return torch.cat([batch[0][0] for batch in DataLoader(train, batch_size=2, num_workers=workers)])

    first = images(0)
    assert not torch.equal(first, images(1))
    assert torch.equal(first, images(0))
    assert torch.equal(first, images(0, workers=2))


def test_reference_losses_need_a_few_samples_only(nyuv2, monkeypatch):
    task = create_task("nyuv2")
    read = []
    train = task.splits(nyuv2.parent).train
    monkeypatch.setattr(train, "get", lambda i, augment=None, get=train.get: (read.append(i), get(i, augment))[1])
    splits = task.splits(nyuv2.parent)
    prior, initial = task.prior_losses(splits), task.initial_losses(splits)
    assert sorted(read) == list(range(9))
    assert set(prior) == set(initial) == {"segmentation", "depth", "normals"}
    assert all(np.isfinite([*prior.values(), *initial.values()]))
    assert prior["segmentation"] < initial["segmentation"] == pytest.approx(np.log(13))


def test_reference_losses_of_a_shortened_set_are_those_of_its_samples(nyuv2):
    task = create_task("nyuv2")
    whole = task.splits(nyuv2.parent)
    short = whole.truncate(2)
    labels = [whole.train.get(i).targets["segmentation"] for i in range(2)]
    share = torch.stack(labels)
    share = torch.bincount(share[share >= 0]) / (share >= 0).sum()
    entropy = -(share[share > 0] * share[share > 0].log()).sum()
    assert task.prior_losses(short)["segmentation"] == pytest.approx(entropy.item(), rel=0.2)  # of thinned labels
    assert task.prior_losses(short) != task.prior_losses(whole)


def test_pictures_show_four_samples(nyuv2):
    class Model(torch.nn.Linear):
        def forward(self, image):
            size = image.shape[-2:]
            return {
                "segmentation": torch.zeros(len(image), 13, *size),
                "depth": torch.ones(len(image), 1, *size),
                "normals": torch.ones(len(image), 3, *size),
            }

    task = create_task("nyuv2")
    (figure,) = task.pictures(Model(1, 1), task.splits(nyuv2.parent).test).values()
    assert len(figure.axes) == 4 * 7
    task = task.restrict(("depth",))
    (figure,) = task.pictures(Model(1, 1), task.splits(nyuv2.parent).test).values()
    assert [axis.get_title() for axis in figure.axes[:3]] == ["image", "depth, predicted", "depth, true"]


# ---- Cityscapes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["label", "label_7"])
def test_cityscapes_in_mtans_layout_with_either_name_of_the_labels(tmp_path, folder):
    kinds = ("image", "label", "depth")
    save(tmp_path / "cityscapes", {"train": 4, "val": 2}, 7, kinds, {"label": folder})
    task = create_task("cityscapes", height=H, width=W, augment=False)
    (image,), targets = task.splits(tmp_path).train[1]
    np.testing.assert_array_equal(targets["segmentation"], arrays(1, 7)["label"])
    np.testing.assert_array_equal(targets["depth"][0], arrays(1, 7)["depth"][..., 0])
    assert task.info["maps"] == tuple(targets) == ("segmentation", "depth")
    assert task.info["segmentation_classes"] == 7
    assert image.shape == (3, H, W)


def test_cityscapes_is_brought_to_the_size_asked_for(tmp_path):
    save(tmp_path / "cityscapes", {"train": 4, "val": 2}, 7, ("image", "label", "depth"))
    for part in create_task("cityscapes", height=8, width=12).splits(tmp_path):
        (image,), targets = part[0]
        assert image.shape[1:] == targets["segmentation"].shape == targets["depth"].shape[1:] == (8, 12)


def save_official(root, cities, size=(32, 16)):
    random = np.random.RandomState(0)
    for split, names in cities.items():
        for city in names:
            for frame in range(2):
                stem = f"{city}/{city}_{frame:06}_000019_"
                pictures = {
                    f"leftImg8bit/{split}/{stem}leftImg8bit.png": random.randint(0, 256, (*size[::-1], 3)).astype(
                        np.uint8
                    ),
                    f"gtFine/{split}/{stem}gtFine_labelIds.png": random.randint(0, 34, size[::-1]).astype(np.uint8),
                    f"disparity/{split}/{stem}disparity.png": random.randint(0, 32257, size[::-1]).astype(np.uint16),
                }
                for name, pixels in pictures.items():
                    (root / name).parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(root / name)
    return root


@pytest.fixture
def official(tmp_path):
    return save_official(tmp_path / "cityscapes", {"train": ("ulm", "aachen"), "val": ("lindau",)})


def test_cityscapes_as_published(official):
    task = create_task("cityscapes", height=16, width=32, augment=False, classes=19, validation=0.25)
    train, val, test = task.splits(official.parent)
    assert (len(train), len(val), len(test)) == (3, 1, 2)
    (image,), targets = train[1]
    stem = "train/aachen/aachen_000001_000019_"
    pixels = np.asarray(Image.open(official / "leftImg8bit" / f"{stem}leftImg8bit.png"))
    ids = np.asarray(Image.open(official / "gtFine" / f"{stem}gtFine_labelIds.png"))
    disparity = np.asarray(Image.open(official / "disparity" / f"{stem}disparity.png"))
    np.testing.assert_allclose(image.permute(1, 2, 0), pixels / 255, atol=1e-6)
    np.testing.assert_allclose(targets["depth"][0], disparity / 65535, atol=1e-7)
    wanted = {7: 0, 8: 1, 11: 2, 23: 10, 24: 11, 31: 16, 33: 18, 0: -1, 9: -1, 29: -1, 30: -1}
    for number, index in wanted.items():
        assert set(targets["segmentation"][torch.from_numpy(ids == number)].tolist()) <= {index}


def test_seven_categories_of_the_official_ids(official):
    train = create_task("cityscapes", height=16, width=32, augment=False).splits(official.parent).train
    ids = np.asarray(Image.open(official / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"))
    wanted = {6: -1, 7: 0, 10: 0, 11: 1, 16: 1, 17: 2, 20: 2, 21: 3, 22: 3, 23: 4, 24: 5, 25: 5, 26: 6, 33: 6}
    for number, index in wanted.items():
        assert set(train[0].targets["segmentation"][torch.from_numpy(ids == number)].tolist()) <= {index}


def test_a_picture_without_labels_is_named(official):
    path = official / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png"
    path.unlink()
    with pytest.raises(DataError, match="is missing, but") as caught:
        create_task("cityscapes").splits(official.parent)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "pixels", "problem"),
    [
        ("leftImg8bit", None, "damaged"),
        ("disparity", None, "damaged"),
        ("gtFine_labelIds", np.full((16, 32), 200, np.uint8), "label ids must be"),
        ("gtFine_labelIds", np.zeros((16, 32, 3), np.uint8), "label ids must be"),
        ("disparity", np.zeros((8, 32), np.uint16), "it is 8 x 32 pixels"),
    ],
)
def test_a_damaged_picture_is_named(official, kind, pixels, problem):
    folder = "gtFine" if kind.startswith("gtFine") else kind
    path = official / folder / f"train/aachen/aachen_000000_000019_{kind}.png"
    if pixels is None:
        path.write_bytes(path.read_bytes()[:-100])
    else:
        Image.fromarray(pixels).save(path)
    with pytest.raises(DataError, match=problem) as caught:
        create_task("cityscapes").splits(official.parent)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("nyuv2", {"protocol": "other"}),
        ("nyuv2", {"validation": 1.0}),
        ("nyuv2", {"jitter": 2.0}),
        ("cityscapes", {"classes": 8}),
        ("cityscapes", {"height": 0}),
    ],
)
def test_values_out_of_range_are_refused(name, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        create_task(name, **arguments)


# ---- sets with lists of names ----------------------------------------------------------------------------------------


def save_nyud(root):
    random = np.random.RandomState(0)
    for part, count in (("train", 4), ("val", 2)):
        names = [f"{part}_{i:04}" for i in range(count)]
        (root / "gt_sets").mkdir(parents=True, exist_ok=True)
        (root / "gt_sets" / f"{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            edge = np.where(random.rand(H, W) < 0.1, 255, random.rand(H, W) < 0.2).astype(np.float32)
            arrays = {"depth": random.uniform(0.5, 9, (H, W)), "normals": unit(random), "edge": edge}
            pictures = {
                "images": ("jpg", random.randint(0, 256, (H, W, 3))),
                "segmentation": ("png", random.randint(0, 41, (H, W))),
            }
            for folder, array in arrays.items():
                (root / folder).mkdir(exist_ok=True)
                np.save(root / folder / f"{name}.npy", array.astype(np.float32))
            for folder, (ending, array) in pictures.items():
                (root / folder).mkdir(exist_ok=True)
                Image.fromarray(array.astype(np.uint8)).save(root / folder / f"{name}.{ending}")
    return root


def test_nyud_in_its_layout(tmp_path):
    root = save_nyud(tmp_path / "NYUD_MT")
    task = create_task("nyud", height=H, width=W, augment=False, validation=0.25)
    train, val, test = task.splits(tmp_path)
    assert (len(train), len(val), len(test)) == (3, 1, 2)
    targets = train[1].targets
    ids = np.asarray(Image.open(root / "segmentation/train_0001.png")).astype(int)
    np.testing.assert_array_equal(targets["segmentation"], ids - 1)
    edge = np.load(root / "edge/train_0001.npy")
    np.testing.assert_array_equal(targets["edges"][0], np.where(edge == 255, np.nan, edge))
    np.testing.assert_array_equal(targets["depth"][0], np.load(root / "depth/train_0001.npy"))
    np.testing.assert_array_equal(targets["normals"].permute(1, 2, 0), np.load(root / "normals/train_0001.npy"))
    assert task.info["maps"]["segmentation"] == {"kind": "classes", "classes": 40}
    (root / "depth/val_0001.npy").unlink()
    with pytest.raises(DataError, match=r"val_0001.* is missing, but .*val.txt names it"):
        create_task("nyud", height=H, width=W).splits(tmp_path)


def test_pascal_context_in_its_layout(tmp_path):
    root, random = tmp_path / "PASCAL_MT", np.random.RandomState(0)
    for part, count in {"train": 3, "val": 2}.items():
        names = [f"2008_{part}{i}" for i in range(count)]
        (root / "ImageSets/Context").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Context/{part}.txt").write_text("\n".join(names))
        for i, name in enumerate(names):
            labels = random.choice([0, 5, 20, 255], (H + i, W))
            pictures = {
                f"JPEGImages/{name}.jpg": random.randint(0, 256, (H + i, W, 3)),
                f"semseg/{'VOC12' if i else 'pascal-context'}/{name}.png": labels,
                f"sal_distill/{name}.png": random.randint(0, 256, (H + i, W)),
                f"normals_distill/{name}.png": random.randint(0, 256, (H + i, W, 3)),
            }
            for file, array in pictures.items():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array.astype(np.uint8)).save(root / file)
    task = create_task("pascal_context", height=H, width=W, augment=False)
    train, val, test = task.splits(tmp_path)
    assert (len(train), len(val), len(test)) == (2, 1, 2)
    targets = train[0].targets
    labels = np.asarray(Image.open(root / "semseg/pascal-context/2008_train0.png")).astype(int)
    np.testing.assert_array_equal(targets["segmentation"], np.where(labels == 255, -1, labels))
    saliency = np.asarray(Image.open(root / "sal_distill/2008_train0.png"))
    np.testing.assert_array_equal(targets["saliency"][0], saliency > 127)
    torch.testing.assert_close(targets["normals"].norm(dim=0).median(), torch.tensor(1.0))
    assert test[1].inputs[0].shape == (3, H, W)


# ---- what a run keeps, and what is no data ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "write", "file", "sample"),
    [
        (
            "nyuv2",
            lambda place: save(place / "nyuv2", {"train": 4, "val": 2}),
            "train/depth/1.npy",
            "train/image/1.npy",
        ),
        (
            "cityscapes",
            lambda place: save_official(place / "cityscapes", {"train": ("ulm", "aachen"), "val": ("lindau",)}),
            "disparity/train/ulm/ulm_000000_000019_disparity.png",
            "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png",
        ),
        ("nyud", lambda place: save_nyud(place / "NYUD_MT"), "depth/train_0001.npy", "images/train_0001.jpg"),
    ],
)
def test_a_run_refuses_a_set_with_other_files(tmp_path, name, write, file, sample):
    root = write(tmp_path)
    task = create_task(name)
    task.splits(tmp_path)
    state = json.loads(json.dumps(task.state_dict()))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copytree(root, moved / root.name)
    again = create_task(name)
    again.load_state_dict(state)
    again.splits(moved)
    assert again.state_dict() == state
    path = moved / root.name / file
    if path.suffix == ".npy":
        np.save(path, np.load(path).astype(np.float64))
    else:
        Image.fromarray(np.zeros((16, 32), np.uint16)).save(path)
    again = create_task(name)
    again.load_state_dict(state)
    with pytest.raises(DataError, match=r"has changed since training .*first difference in 'depth' .*anew$") as caught:
        again.splits(moved)
    assert sample in str(caught.value)


def test_files_of_macos_are_none_of_the_set(nyuv2, official):
    for folder in ("image", "label"):
        (nyuv2 / "train" / folder / "._0.npy").write_bytes(b"\0\5\26\7")
        (nyuv2 / "train" / folder / ".DS_Store").write_bytes(b"x")
    stem = official / "leftImg8bit/train/ulm/._ulm_000000_000019_leftImg8bit.png"
    stem.write_bytes(b"\0\5\26\7")
    assert len(create_task("nyuv2", validation=0).splits(nyuv2.parent).train) == 10
    assert len(create_task("cityscapes", validation=0).splits(official.parent).train) == 4


def test_predictions_have_the_size_of_the_picture(nyuv2):
    task = create_task("nyuv2")
    task.splits(nyuv2.parent)
    Image.fromarray(np.zeros((50, 40, 3), np.uint8)).save(nyuv2.parent / "picture.png")
    windows = task.preprocess(nyuv2.parent / "picture.png")
    assert (windows.inputs[0].shape, windows.boxes) == ((1, 3, H, W), ((0, 0, 50, 40),))
    outputs = {
        "segmentation": torch.randn(1, 13, H, W),
        "depth": torch.ones(1, 1, H, W),
        "normals": torch.randn(1, 3, H, W),
    }
    maps = task.decode_windows(windows, outputs).maps
    assert {name: values.shape for name, values in maps.items()} == {
        "segmentation": (1, 50, 40),
        "depth": (1, 50, 40),
        "normals": (1, 50, 40, 3),
    }
    np.testing.assert_allclose(np.linalg.norm(maps["normals"], axis=-1), 1, rtol=1e-5)
