"""Pictures with maps of one's own: every way to store them, and a message for every mistake."""

import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from tasks import DataError, create_task
from tasks.dense_windows import windows_of
from tasks.map_formats import map_format
from tests.tasks.maps_of_photos import COLORS, LABELS, MAPS, arrays, write_photos, write_table

SIZE = {"height": 32, "width": 48}


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos")


def made(photos, **options):
    return create_task("maps", **{"root": str(photos), "maps": MAPS, **SIZE, **options})


def splits_of(photos, **options):
    return made(photos, **options).splits(photos.parent / "data")


def saved(path, array):
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    return path


# ---- formats ---------------------------------------------------------------------------------------------------------


def read(path, array, **options):
    return map_format("it", options).read(saved(path, np.asarray(array)))


COLORED = {"kind": "classes", "classes": {"sky": [90, 140, 220], "grass": [70, 160, 60], "disk": [200, 60, 50]}}


def test_classes_by_id_palette_and_color_are_the_same(tmp_path):
    ids = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)
    wanted = np.where(ids == 255, -1, ids.astype(np.int16))
    colors = COLORS[ids % 255]
    colors[1, 1] = 0
    palette = Image.frombytes("P", (3, 2), ids.tobytes())
    palette.putpalette([*COLORS.flatten().tolist(), *[0] * 759])
    palette.save(tmp_path / "palette.png")
    plain = {"kind": "classes", "classes": ["sky", "grass", "disk"]}
    for found in (
        read(tmp_path / "a.png", ids, **plain),
        read(tmp_path / "b.png", np.repeat(ids[..., None], 3, axis=2), **plain),
        read(tmp_path / "c.npy", np.where(ids == 255, -1, ids.astype(float)), **plain),
        read(tmp_path / "d.png", ids.astype(np.uint16), **plain),
        read(tmp_path / "e.png", colors, **COLORED, void=[0, 0, 0]),
        read(
            tmp_path / "f.png", 10 * ids.clip(max=3) + 1, kind="classes", classes={"a": 1, "b": 11, "c": 21}, void=[31]
        ),
        read(tmp_path / "g.png", (ids.astype(int) + 1).astype(np.uint8), kind="classes", classes=3, first=1, void=0),
        map_format("it", plain).read(tmp_path / "palette.png"),
        map_format("it", {**COLORED, "void": [[0, 0, 0]]}).read(tmp_path / "palette.png"),
    ):
        assert found.dtype == np.int16
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("ending", ["png", "tif", "npy"])
def test_depth_is_scaled_and_what_is_unknown_is_zero(tmp_path, ending):
    raw = np.array([[0, 500, 65535], [1500, 14465, 2000]], np.uint16)
    found = read(tmp_path / f"a.{ending}", raw, kind="depth", scale=0.001, void=65535, valid=[0.6, 10])
    np.testing.assert_allclose(found, [[0, 0, 0], [1.5, 0, 2]])


def test_depth_as_numbers(tmp_path):
    found = read(tmp_path / "a.npy", [[np.nan, 1.5], [-1.0, np.inf]], kind="depth", valid=[0, 100])
    np.testing.assert_array_equal(found, np.float32([[0, 1.5], [0, 0]]))
    found = read(tmp_path / "a.tif", np.float32([[0, 1.5]]), kind="depth")
    np.testing.assert_array_equal(found, np.float32([[0, 1.5]]))


def test_normals_as_bytes_and_as_numbers_are_the_same(tmp_path):
    normals = np.random.RandomState(0).randn(6, 7, 3).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    normals[0, :2] = 0
    as_bytes = np.rint((normals + 1) * 127.5).astype(np.uint8)
    as_bytes[0, 0] = 0
    exact = read(tmp_path / "a.npy", normals, kind="normals")
    np.testing.assert_array_equal(exact, normals.transpose(2, 0, 1))
    for found, tolerance in (
        (read(tmp_path / "b.png", as_bytes, kind="normals"), 0.01),
        (read(tmp_path / "c.npy", (normals + 1) / 2, kind="normals", range=[0, 1], void=[0.5, 0.5, 0.5]), 1e-6),
        (read(tmp_path / "d.npy", 7 * normals, kind="normals", normalize=True), 1e-6),
    ):
        np.testing.assert_allclose(found, exact, atol=tolerance)
        assert not found[:, 0, :2].any()


@pytest.mark.parametrize("wrong", [3, 254, 256, -2, 2**32 + 1, -(2**40)])
def test_ids_of_no_class_are_refused_however_large(tmp_path, wrong):
    ids = np.array([[0, 1, 255], [-1, 2, wrong]], np.int64)
    with pytest.raises(ValueError, match=f"1 pixels have ids of no class: {wrong};"):
        read(tmp_path / "a.npy", ids, kind="classes", classes=3)


def test_binary_maps_and_shares(tmp_path):
    mask = np.array([[0, 1, 1]], np.uint8)
    for found in (
        read(tmp_path / "a.png", mask, kind="binary"),
        read(tmp_path / "b.png", 255 * mask, kind="binary"),
        read(tmp_path / "c.png", mask.astype(bool), kind="binary"),
        read(tmp_path / "d.png", 90 * mask + 100, kind="binary", threshold=128),
    ):
        np.testing.assert_array_equal(found, np.float32(mask))
    np.testing.assert_array_equal(
        read(tmp_path / "e.png", np.uint8([[0, 1, 255]]), kind="binary", void=255)[0, :2], [0, 1]
    )
    share = np.array([[0, 51, 255]], np.uint8)
    np.testing.assert_allclose(read(tmp_path / "f.png", share, kind="share"), [[0, 0.2, 1]], atol=1e-6)
    np.testing.assert_allclose(read(tmp_path / "g.npy", share / 255, kind="share"), [[0, 0.2, 1]], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "array", "problem"),
    [
        (
            {"kind": "classes", "classes": 3},
            np.uint8([[0, 9, 9]]),
            r"2 pixels have ids of no class: 9; add them to classes, or to void",
        ),
        ({"kind": "classes", "classes": 3}, np.uint8([[[0, 9, 9]]]), "say which color each class has"),
        ({"kind": "classes", "classes": 3}, np.float32([[0.5]]), "ids of classes must be whole numbers"),
        (COLORED, np.uint8([[[1, 2, 3]]]), r"colors of no class: \[1, 2, 3\]"),
        (COLORED, np.uint8([[1]]), "it has ids, or no colors of 8 bits"),
        ({"kind": "depth"}, np.float32([[-1, 2]]), "must be greater than 0 and finite: say void"),
        ({"kind": "depth"}, np.float32([[np.inf, 2]]), "must be greater than 0 and finite: say void"),
        ({"kind": "depth"}, np.uint16([[65535, 2]]), "65535, the largest number that such a file holds"),
        ({"kind": "depth"}, np.uint8([[[1, 2, 3]]]), "it has colors, and should be gray"),
        ({"kind": "normals"}, np.float32([[[0, 128, 255]]]), "normals have numbers from -1 to 1 here: say range"),
        ({"kind": "normals"}, np.float32([[1]]), "normals must have three channels"),
        ({"kind": "normals"}, np.full((2, 2, 3), 200, np.int16), "have not length 1"),
        ({"kind": "binary"}, np.uint8([[0, 3, 7]]), "a binary map has 0, and 1 or 255"),
        ({"kind": "binary"}, np.uint8([[0, 1, 255]]), "a binary map has 0, and 1 or 255"),
        ({"kind": "share"}, np.float32([[0, 1.5]]), "a share must be from 0 to 1"),
        ({"kind": "share"}, np.array([["a"]]), "its numbers are"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(tmp_path, options, array, problem):
    with pytest.raises(ValueError, match=problem):
        read(tmp_path / "a.npy", array, **options)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"kind": "class"}, r"task.maps.it needs a kind: did you mean classes"),
        ({}, "task.maps.it needs a kind"),
        ({"kind": "classes"}, "task.maps.it.classes must say which classes there are"),
        ({"kind": "classes", "classes": ["a", "a"]}, "two classes have 'a'"),
        ({"kind": "classes", "classes": {"a": 1, "b": [1, 2, 3]}}, "each name needs an id, or each a color"),
        ({"kind": "classes", "classes": 3, "void": 0}, "does the first class have the id 1"),
        ({"kind": "depth", "scal": 2}, "no option 'scal'; did you mean scale"),
        ({"kind": "depth", "scale": 0}, "task.maps.it.scale must be a number greater than 0"),
        ({"kind": "depth", "valid": [3, 1]}, "task.maps.it.valid must be two numbers, the smaller first"),
        ({"kind": "normals", "void": 3}, "task.maps.it.void must have three numbers"),
        ({**COLORED, "void": 255}, "task.maps.it.void must be a color"),
    ],
)
def test_a_map_that_is_described_badly_is_refused(options, problem):
    with pytest.raises(ValueError, match=problem):
        map_format("it", options)


# ---- folders and tables ----------------------------------------------------------------------------------------------


def test_photos_in_folders(photos):
    splits = splits_of(photos)
    assert [len(part) for part in splits] == [7, 3, 2]
    (image,), targets = splits.val[0]
    assert {name: (value.dtype, tuple(value.shape)) for name, value in targets.items()} == {
        "ground": (torch.int64, (32, 48)),
        "height": (torch.float32, (1, 32, 48)),
        "border": (torch.float32, (1, 32, 48)),
    }
    assert image.shape == (3, 32, 48)
    assert (
        splits.notes[0]
        == "12 images (7 train, 3 val, 2 test) of 40 x 56 to 48 x 48 pixels, resized after their middle is cut out: 32 x 48"
    )
    assert splits.notes[1:] == (
        "ground: 3 classes",
        "height: depth, 1.5 to 20 m",
        "border: binary, none for 1 of the images",
    )


def test_a_map_that_is_missing_is_unknown_and_its_objective_sparse(photos):
    from mozoo.data import sparse_objectives

    task = made(photos)
    splits = task.splits(photos.parent)
    paths = [row["image"].name for row in splits.train.folder.rows]
    row = paths.index("p05.jpg")
    assert np.isnan(splits.train.folder.read(row)["border"]).all()
    trained = row in splits.train.rows
    assert sparse_objectives(task, splits.train) == (frozenset({"border"}) if trained else frozenset())


def test_the_middle_is_kept_and_maps_stay_on_their_pixels(photos):
    cut, wide = (splits_of(photos, fit=fit, mirror=0).val.get(0) for fit in ("crop", "stretch"))
    assert not torch.equal(cut.inputs[0], wide.inputs[0])
    for batch in (cut, wide):
        red = batch.inputs[0][0] > batch.inputs[0][1] + 0.2
        disk = batch.targets["ground"] == 2
        known = batch.targets["ground"] >= 0
        assert (red & disk & known).sum() > 0.7 * (disk & known).sum()


def test_the_split_follows_from_names_not_from_positions(photos):
    before = {part: names(split) for part, split in zip("abc", splits_of(photos), strict=True)}
    for name in ("images", "ground", "height", "border"):
        source = next((photos / name).glob("p00.*"))
        source.rename(source.with_name(f"zz{source.suffix}"))
    after = {part: names(split) for part, split in zip("abc", splits_of(photos), strict=True)}
    for part in "abc":
        assert after[part] - {"zz"} <= before[part] | {"zz"}


def names(split):
    return {split.folder.rows[row]["image"].stem for row in split.rows}


@pytest.mark.parametrize("inside", [True, False])
def test_folders_of_splits(photos, inside):
    for i, part in enumerate(["training"] * 6 + ["valid"] * 3 + ["test"] * 3):
        for name in ("images", "ground", "height", "border"):
            for source in (photos / name).glob(f"p{i:02}.*"):
                target = photos / part / name if inside else photos / name / part
                target.mkdir(parents=True, exist_ok=True)
                source.rename(target / source.name)
    splits = splits_of(photos)
    assert [len(part) for part in splits] == [6, 3, 3]
    assert names(splits.test) == {"p09", "p10", "p11"}


def test_a_table_of_paths(photos):
    lines = ["Image;height;soil;Split"]
    for i in range(12):
        part = "train" if i < 8 else "val" if i < 10 else "test"
        lines.append(f"images\\p{i:02}.jpg;{'NA' if i == 1 else f'height/p{i:02}.png'};./ground/p{i:02}.png;{part}")
    (photos / "paths.csv").write_text("\n".join(lines) + "\n")
    maps = {"height": MAPS["height"], "ground": {**MAPS["ground"], "folder": "soil"}}
    task = create_task("maps", csv=str(photos / "paths.csv"), maps=maps, **SIZE)
    splits = task.splits(photos.parent)
    assert [len(part) for part in splits] == [8, 2, 2]
    assert "height: depth, 1.5 to 20 m, none for 1 of the images" in splits.notes
    assert names(splits.test) == {"p10", "p11"}


def rename(folder, old, new):
    return lambda root: (root / folder / old).rename(root / folder / new)


def cut(name, keep=-40):
    def change(root):
        path = next((root / name).glob("p03.*"))
        path.write_bytes(path.read_bytes()[:keep])

    return change


def replaced(name, make, ending="png"):
    return lambda root: saved(root / name / f"p03.{ending}", make(arrays(3)[name]))


def without(name):
    def change(root):
        for path in (root / name).glob("*"):
            path.unlink()

    return change


@pytest.mark.parametrize(
    ("change", "options", "problem"),
    [
        (None, {"root": "nowhere"}, "there is no folder nowhere"),
        (None, {"root": None}, "say where the images are"),
        (None, {"maps": {"soil": MAPS["ground"]}}, r"there is no folder .*soil"),
        (None, {"images": "pictures"}, r"there is no folder .*pictures"),
        (None, {"maps": None}, "say which maps there are"),
        (
            None,
            {"height": None, "width": None},
            r"images have 2 sizes, such as 48 x 48 .* and 40 x 56 .*task.height and task.width",
        ),
        (without("ground"), {}, "has no files that end in"),
        (rename("ground", "p03.png", "q.png"), {}, r"q.png belongs to no image"),
        (rename("images", "p03.jpg", "p03.heic"), {}, r"p03.heic is no image"),
        (lambda root: saved(root / "images/p03.png", arrays(3)["images"]), {}, "have the same name"),
        (cut("images"), {}, r"p03.jpg cannot be used .*truncated"),
        (cut("ground"), {}, r"p03.png cannot be used .*truncated"),
        (cut("height", 0), {}, r"p03.png cannot be used"),
        (replaced("ground", lambda a: a + np.uint8(3)), {}, r"p03.png cannot be used \(.*ids of no class"),
        (replaced("ground", lambda a: a[:-1]), {}, r"it is 47 x 48 pixels, its image 48 x 48"),
        (replaced("height", lambda a: a + np.uint16(65535 - a.max())), {}, "65535, the largest number"),
        (replaced("height", lambda a: a.astype(np.float32) * 1e9, "tif"), {}, "have the same name"),
        (lambda root: saved(root / "images/p99.png", np.zeros((40, 56), np.uint16)), {}, "more than 8 bits a pixel"),
        (lambda root: (root / "train" / "images").mkdir(parents=True), {}, "keep one of them"),
        (None, {"val_share": 0.0}, "val_share and test_share must be positive"),
        (None, {"height": 0, "width": 3}, "height and width must both be at least 1"),
        (None, {"height": 3, "width": None}, "height and width must both be at least 1"),
        (None, {"csv": "a.csv"}, "task.root or task.csv, not both"),
        (None, {"maps": {"keys": {"kind": "binary"}}}, "cannot be called 'keys'"),
        (None, {"criteria": {"grund": "focal"}}, "names 'grund', which is no map; did you mean ground"),
        (
            None,
            {"criteria": {"height": "focal"}},
            "task.criteria.height: focal is no criterion for depth; choose from huber, l1, l2, log_l1",
        ),
        (None, {"criteria": {"ground": {"name": "focal", "gama": 1}}}, "has no option 'gama'"),
    ],
)
def test_what_cannot_be_used_is_refused_at_the_start_by_name(photos, change, options, problem):
    if change is not None:
        change(photos)
    with pytest.raises((DataError, ValueError), match=problem):
        splits_of(photos, **options)


def test_jpeg_is_refused_for_classes(photos):
    (photos / "ground/p03.png").unlink()
    saved(photos / "ground/p03.jpg", arrays(3)["ground"])
    with pytest.raises(DataError, match=r"\.jpg changes ids and colors; save classes as PNG"):
        splits_of(photos)


def test_exr_files(tmp_path):
    exr = pytest.importorskip("OpenEXR")
    depth, normals = np.float32([[0, 1.5], [np.nan, 20]]), np.zeros((2, 2, 3), np.float32)
    normals[..., 2] = 1

    def write(name, **channels):
        header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
        exr.File(header, channels).write(str(tmp_path / name))
        return tmp_path / name

    read = map_format("it", {"kind": "depth", "scale": 2}).read
    wanted = np.float32([[0, 3], [0, 40]])
    for path in (
        write("z.exr", Z=depth),
        write("y.exr", Y=depth.astype(np.float16)),
        write("v.exr", **{"View.Depth.V": depth}),
    ):
        np.testing.assert_array_equal(read(path), wanted)
    np.testing.assert_array_equal(read(write("gray.exr", RGB=np.repeat(depth[..., None], 3, axis=2))), wanted)
    read = map_format("it", {"kind": "normals"}).read
    for path in (
        write("n.exr", RGB=normals),
        write("xyz.exr", **dict(zip("XYZ", normals.transpose(2, 0, 1).copy(), strict=True))),
    ):
        np.testing.assert_array_equal(read(path), normals.transpose(2, 0, 1))
    with pytest.raises(ValueError, match="it has the channels Q; one of Z"):
        read(write("q.exr", Q=depth))
    path = write("cut.exr", Z=np.random.rand(64, 64).astype(np.float32))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="cannot read it as EXR"):
        read(path)


def test_exr_without_its_package_names_it(photos, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "OpenEXR", None)
    (photos / "height/p03.png").rename(photos / "height/p03.exr")
    with pytest.raises(DataError, match="pip install OpenEXR"):
        splits_of(photos)


def test_a_class_that_is_only_in_the_test_split_is_said(photos):
    for i in range(12):
        part = "train" if i < 8 else "val" if i < 10 else "test"
        for name in ("images", "ground"):
            source = next((photos / name).glob(f"p{i:02}.*"))
            target = photos / part / name
            target.mkdir(parents=True, exist_ok=True)
            if name == "ground" and i < 10:
                ids = arrays(i)["ground"]
                saved(source, np.where(ids == 2, np.uint8(1), ids))
            source.rename(target / source.name)
    notes = splits_of(photos, maps={"ground": {**MAPS["ground"], "classes": ["sky", "grass", "disk", "ice"]}}).notes
    assert "ground: the class 'disk' occurs only in test, and cannot be learnt" in notes
    assert "ground: the class 'ice' occurs nowhere" in notes


def test_a_split_without_a_map_is_refused(photos):
    for path in (photos / "border").glob("*"):
        if path.stem != "p00":
            path.unlink()
    with pytest.raises(DataError, match=r"no pixel of 'border' is known in the split"):
        splits_of(photos)


def test_files_are_read_once_and_again_when_they_change(photos, monkeypatch):
    from tasks import file_checks
    from tasks.map_files import MapFiles

    monkeypatch.setattr(file_checks, "MANY", 3)
    read, inspect = [], MapFiles.inspect
    monkeypatch.setattr(MapFiles, "inspect", lambda self, i: (read.append(i), inspect(self, i))[1])
    first = splits_of(photos).notes
    assert sorted(read) == list(range(12))
    read.clear()
    assert splits_of(photos).notes == first
    assert read == []
    saved(photos / "height/p03.png", arrays(3)["height"] // 2)
    assert splits_of(photos).notes != first
    assert read == [3]
    read.clear()
    for file in (photos.parent / "data/.checked").iterdir():
        file.write_text("{")
    splits_of(photos)
    assert sorted(read) == list(range(12))


def test_a_run_keeps_its_depths_and_refuses_other_files(photos):
    task = made(photos)
    task.splits(photos.parent)
    state = task.state_dict()
    again = made(photos)
    again.load_state_dict(state)
    again.splits(photos.parent)
    assert again.state_dict() == state
    for name in ("images", "ground", "height"):
        next((photos / name).glob("p07.*")).unlink()
    (photos / "border/p07.png").unlink()
    again = made(photos)
    again.load_state_dict(state)
    with pytest.raises(DataError, match="has changed since training"):
        again.splits(photos.parent)


def test_predictions_are_in_the_unit_of_the_files(photos):
    task = made(photos)
    splits = task.splits(photos.parent)
    mean = task.state_dict()["depths"]["height"]
    assert 1.5 < mean < 20
    assert splits.train.get(0).targets["height"].max() == pytest.approx(20 / mean, rel=1e-5)
    outputs = {
        "ground": torch.randn(1, 3, 32, 48),
        "height": torch.ones(1, 1, 32, 48),
        "border": torch.zeros(1, 1, 32, 48),
    }
    decoded = task.decode(outputs)
    np.testing.assert_allclose(decoded.maps["height"], mean, rtol=1e-6)
    np.testing.assert_allclose(decoded.maps["border"], 0.5)
    assert decoded.maps["ground"].dtype == np.uint8
    assert decoded.legends["ground"]["class"] == ("sky", "grass", "disk")
    criterion = {o.name: o for o in task.objectives}["height"]
    assert criterion.metrics["abs_err"].transform(torch.ones(1)).item() == pytest.approx(mean)


@pytest.mark.parametrize(
    ("criteria", "loss"),
    [
        ({"ground": "dice_cross_entropy"}, "DiceCrossEntropy"),
        ({"ground": {"name": "focal", "gamma": 1}}, "Focal"),
        ({"ground": {"name": "cross_entropy", "weights": "balanced", "label_smoothing": 0.1}}, "Segmentation"),
        ({"height": "log_l1"}, "DepthError"),
        ({"height": {"name": "huber", "delta": 0.2}}, "DepthError"),
        ({"border": {"name": "binary_cross_entropy", "pos_weight": 10}}, "BinaryMap"),
    ],
)
def test_criteria_by_configuration(photos, criteria, loss):
    task = made(photos, criteria=criteria)
    splits = task.splits(photos.parent)
    (name,) = criteria
    criterion = {o.name: o.criterion for o in task.objectives}[name]
    assert type(criterion).__name__ == loss
    assert all(np.isfinite(list(task.prior_losses(splits).values())))
    assert all(np.isfinite(list(task.initial_losses(splits).values())))
    if loss == "Segmentation":
        assert len(criterion.weights) == 3
        assert criterion.label_smoothing == 0.1


# ---- labels of the whole picture -------------------------------------------------------------------------------------


def labelled(table, **options):
    return create_task("maps", **{"csv": str(table), "maps": MAPS, "labels": LABELS, **SIZE, **options})


def test_labels_are_those_of_the_lines(tmp_path):
    csv = write_table(tmp_path / "photos")
    task = labelled(csv)
    splits = task.splits(tmp_path / "data")
    assert [o.name for o in task.objectives] == [*MAPS, *LABELS]
    assert task.auto_value("labels", splits) == {"sky": 2, "radius": 1, "seen": 2}
    lines = [line.split(",") for line in csv.read_text().splitlines()[1:]]
    inverse = {o.name: o.inverse_transform for o in task.objectives}["radius"]
    for part in splits:
        for index, row in enumerate(part.rows):
            targets = part[index].targets
            _, _, _, _, sky, radius, seen, _ = lines[row]
            assert targets["sky"] == {"little": 0, "much": 1, "": -1}[sky]
            if radius == "?":
                assert targets["radius"].isnan().all()
                assert targets["seen"].tolist() == [0, 0]
            else:
                assert inverse(targets["radius"]).item() == pytest.approx(float(radius), abs=1e-5)
                assert targets["seen"].tolist() == [float("grass" in seen), 1.0]
    labels = splits.train_labels()
    assert len(labels["sky"]) == len(splits.train)
    assert all(np.isfinite(list(task.prior_losses(splits).values())))
    assert any(note.startswith("objective sky: classes: little, much, 8.3 % missing") for note in splits.notes)


def test_a_run_keeps_what_labels_mean(tmp_path):
    csv = write_table(tmp_path / "photos")
    task = labelled(csv)
    task.splits(tmp_path)
    again = labelled(csv)
    again.load_state_dict(task.state_dict())
    csv.write_text(csv.read_text().replace("much", "more"))
    with pytest.raises(DataError, match=r"has changed since training .*'sky'"):
        again.splits(tmp_path)
    few = csv.with_name("few.csv")
    few.write_text("\n".join(csv.read_text().replace("more", "much").splitlines()[:4]))
    other = again.labelled(few)
    assert [int(other.test[i].targets["sky"]) for i in range(3)] == [0, 1, 0]
    few.write_text(few.read_text().replace("much", "vast"))
    with pytest.raises(DataError, match="line 3: sky is 'vast', which is none of the classes"):
        again.labelled(few)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"root": "photos", "csv": None}, "task.labels are columns of a table"),
        ({"labels": {"sky": "kind"}}, "maps: labels.sky: there is no kind 'kind'"),
        ({"labels": ["ground"]}, "a map is called 'ground' already"),
        ({"labels": ["Split"]}, "'Split' has another meaning"),
        ({"maps": {"split": {"kind": "depth"}}}, "cannot be called 'split'"),
        ({"criteria": {"skye": "focal"}}, "did you mean sky"),
        ({"criteria": {"sky": "huber"}}, "task.criteria.sky"),
        ({"labels": ["skies"]}, "no column 'skies'; it has border, .* sky"),
        ({"labels": {"sky": "number"}}, "'little' is no sky, which must be a number"),
    ],
)
def test_labels_that_cannot_be_are_refused(tmp_path, options, problem):
    csv = write_table(tmp_path / "photos")
    with pytest.raises((ValueError, DataError), match=problem):
        labelled(csv, **options).splits(tmp_path)


def test_a_model_without_heads_for_labels_is_refused(tmp_path):
    task = labelled(write_table(tmp_path / "photos"))
    task.splits(tmp_path)
    assert task.for_model(["in_channels", "maps", "labels"]) is task
    assert task.for_model(["maps", "classifiers", "regressors"]).info["classifiers"] == {
        "sky": 2,
        "radius": 1,
        "seen": 2,
    }
    with pytest.raises(
        DataError, match=r"no heads for labels of the whole picture, and task\.labels names sky, radius, seen"
    ):
        task.for_model(["in_channels", "maps"])
    with pytest.raises(DataError, match="no heads for labels"):
        task.for_model(["in_channels", "classifiers", "regressors"])


def test_labels_and_maps_of_two_sets_in_a_union(tmp_path):
    shared = {"name": "maps", **SIZE}
    first = {"csv": str(write_table(tmp_path / "a")), "maps": {"ground": MAPS["ground"]}, "labels": LABELS}
    second = {"root": str(write_photos(tmp_path / "b")), "maps": {"height": MAPS["height"]}}
    task = create_task("union", sources={"a": shared | first, "b": shared | second})
    splits = task.splits(tmp_path)
    assert [o.name for o in task.objectives] == ["ground", *LABELS, "height"]
    assert task.auto_value("labels", splits) == {"sky": 2, "radius": 1, "seen": 2}
    last = splits.train[len(splits.train) - 1].targets
    assert last["sky"] == -1
    assert last["seen"].isnan().all()
    windows = task.preprocess(tmp_path / "b/images/p00.jpg")
    sizes = {"ground": (3, 32, 48), "height": (1, 32, 48), "sky": (2,), "radius": (1,), "seen": (2,)}
    outputs = {name: torch.rand(len(windows), *size) for name, size in sizes.items()}
    prediction = task.decode_windows(windows, outputs)
    assert {name: len(cells) for name, cells in prediction.cells.items()} == dict.fromkeys(prediction.cells, 1)
    assert {name: values.shape for name, values in prediction.maps.items()} == dict.fromkeys(
        ("ground", "height"), (1, 48, 48)
    )


# ---- predictions in the size of a picture ----------------------------------------------------------------------------


def predicting(photos, **options):
    task = made(photos, **options)
    task.splits(photos.parent / "data")
    return task


@pytest.mark.parametrize(
    ("shape", "count"), [((32, 48), 1), ((64, 96), 1), ((90, 48), 3), ((32, 200), 5), ((20, 30), 1)]
)
def test_windows_cover_a_picture_and_meet_where_they_overlap(photos, shape, count):
    task = predicting(photos)
    picture = np.random.RandomState(0).randint(0, 256, (*shape, 3)).astype(np.uint8)
    windows = task.preprocess(saved(photos.parent / "picture.png", picture))
    assert windows.inputs[0].shape == (count, 3, 32, 48)
    np.testing.assert_array_equal(windows.middle().inputs[0][0], windows.inputs[0][count // 2])
    # a model that tells where each of its pixels is in the picture
    rows, columns = torch.meshgrid(*(torch.arange(side) + 0.5 for side in (32, 48)), indexing="ij")
    places = torch.stack(
        [torch.stack([rows / 32 * box.height + box.top, columns / 48 * box.width + box.left]) for box in windows.boxes]
    )
    outputs = {"ground": places.new_zeros(count, 3, 32, 48), "border": places[:, :1], "height": places[:, 1:]}
    outputs["ground"][:, 0], outputs["ground"][:, 1] = shape[0] / 2, places[:, 0]
    found = task.decode_windows(windows, outputs).maps
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(MAPS, (1, *shape))
    mean = task.state_dict()["depths"]["height"]
    across = np.arange(shape[1]) + 0.5
    edge = shape[1] / 48 + 1
    np.testing.assert_allclose(found["height"][0] / mean, np.broadcast_to(across, shape), atol=edge)
    inside = slice(int(edge), -int(edge))
    np.testing.assert_allclose(
        found["height"][0][:, inside] / mean, np.broadcast_to(across, shape)[:, inside], atol=0.05
    )
    line = found["ground"][0, :, 5]
    assert set(line[: shape[0] // 2 - 1]) == {0}
    assert set(line[shape[0] // 2 + 1 :]) == {1}


def test_a_stretched_picture_is_one_window(photos):
    task = predicting(photos, fit="stretch")
    windows = task.preprocess(saved(photos.parent / "picture.png", np.zeros((90, 48, 3), np.uint8)))
    assert windows.boxes == ((0, 0, 90, 48),)
    outputs = {
        "ground": torch.zeros(1, 3, 32, 48),
        "height": torch.ones(1, 1, 32, 48),
        "border": torch.zeros(1, 1, 32, 48),
    }
    prediction = task.decode_windows(windows, outputs)
    np.testing.assert_allclose(
        prediction.maps["height"], np.full((1, 90, 48), task.state_dict()["depths"]["height"]), rtol=1e-6
    )
    assert prediction.pictures["border"].shape == (1, 90, 48, 3)


def test_a_table_given_to_a_model_for_pictures_is_said_to_be_none(photos):
    (photos.parent / "list.csv").write_text("image,ground\n1.png,2.png\n")
    with pytest.raises(DataError, match=r"list.csv \(a table or a text, no picture; name a picture, or a folder"):
        predicting(photos).preprocess(photos.parent / "list.csv")
    with pytest.raises(DataError, match="is a file; if it is a table of paths"):
        splits_of(photos.parent / "list.csv")


def test_one_file_under_two_names_is_refused(photos):
    (photos / "images/twin.jpg").hardlink_to(photos / "images/p03.jpg")
    with pytest.raises(DataError, match=r"p03\.jpg and .*twin\.jpg are links to one file"):
        splits_of(photos)
    table = photos / "paths.csv"
    table.write_text("image,ground,height,border\n" + "".join(f"images/{name}.jpg,,,\n" for name in ("p03", "twin")))
    with pytest.raises(DataError, match=r"line 3: .*twin\.jpg is on an earlier line, number 2, already"):
        splits_of(photos, root=None, csv=str(table))


def test_files_of_macos_are_no_maps(photos):
    for folder in ("images", "ground"):
        (photos / folder / "._p03.png").write_bytes(b"\0\5\26\7")
        (photos / folder / ".DS_Store").write_bytes(b"x")
    assert sum(map(len, splits_of(photos))) == 12
    table = photos / "paths.csv"
    table.write_text("image,ground,height,border\nimages/._p03.png,,,\n")
    with pytest.raises(DataError, match=r"line 2: .*attributes of macOS, and no picture; remove the line"):
        splits_of(photos, root=None, csv=str(table))


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (1, 1), (900, 3)])
def test_windows_cover_pictures_of_a_pixel(shape):
    windows = windows_of(np.zeros((*shape, 3), np.float32), (64, 32), crop=True)
    covered = np.zeros(shape, bool)
    for box in windows.boxes:
        covered[box.top : box.top + box.height, box.left : box.left + box.width] = True
    assert covered.all()


def test_a_huge_id_needs_no_huge_table(tmp_path):
    file = saved(tmp_path / "ids.npy", np.array([[1, 2], [2**27, 2]], np.uint32))
    form = map_format("ground", {"kind": "classes", "classes": {"road": 1, "grass": 2}, "void": 2**27})
    tracemalloc.start()
    try:
        assert form.read(file).tolist() == [[0, 1], [-1, 1]]
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
