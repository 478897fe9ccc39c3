"""Rooms: the same bits always, true depth and normals, and a cache that is never half-written."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks import DataError, create_task, room_renderer
from tasks.dense_folders import NYU_CLASSES
from tasks.room_renderer import CLASSES, render_room
from tasks.rooms import render_rooms

SMALL = {"height": 24, "width": 32}
OPTIONS = {"seed": 0, **SMALL, "holes": True}


def digest(room):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in room)).hexdigest()[:16]


@pytest.fixture(scope="module")
def rooms():
    return [render_room(0, "train", i, 24, 32, holes=False) for i in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rooms")
    create_task("rooms", **SMALL, train=6, val=2, test=2).splits(path)
    return path


def test_a_room_never_changes():
    assert digest(render_room(0, "train", 0, 24, 32)) == "84522aa0fca5ede3"
    assert digest(render_room(7, "test", 3, 31, 17)) == "37bdf0a003ba548f"


def test_a_room_does_not_depend_on_the_instructions_of_the_processor():
    from numpy._core._multiarray_umath import __cpu_baseline__, __cpu_dispatch__, __cpu_features__

    features = [name for name in __cpu_dispatch__ if __cpu_features__.get(name) and name not in __cpu_baseline__]
    if not features:
        pytest.skip("NumPy has no other instructions to choose from")
    code = (
        f"import sys, hashlib; sys.path.append({str(Path(room_renderer.__file__).parents[1])!r})\n"
        "from room_renderer import render_room\n"
        "room = render_room(0, 'train', 0, 24, 32)\n"
        "print(hashlib.sha256(b''.join(array.tobytes(order='C') for array in room)).hexdigest()[:16])"
    )
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(features)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest(render_room(0, "train", 0, 24, 32))


def test_rooms_differ_between_splits_seeds_and_numbers():
    made = {
        digest(render_room(*which, 24, 32))
        for which in [(0, "train", 0), (0, "train", 1), (0, "val", 0), (1, "train", 0)]
    }
    assert len(made) == 4


def test_maps_are_complete_and_in_range(rooms):
    for room in rooms:
        assert room.label.min() >= 0
        assert room.label.max() < len(CLASSES)
        assert 0.05 < room.depth.min() < room.depth.max() < 10
        np.testing.assert_allclose(np.linalg.norm(room.normal, axis=2), 1, atol=1e-5)


def test_every_class_turns_up():
    assert CLASSES == NYU_CLASSES
    made = [render_room(0, "train", i, 24, 32) for i in range(40)]
    assert {int(label) for room in made for label in np.unique(room.label)} == set(range(-1, len(CLASSES)))


def test_normals_are_those_of_the_surface_that_depth_describes():
    """On the floor, the points behind the pixels span a plane at right angles to the stored normal."""
    room = render_room(3, "train", 1, 60, 80, holes=False)
    floor = room.label == CLASSES.index("floor")
    normal = room.normal[floor]
    assert np.ptp(normal, axis=0).max() < 1e-4  # a floor is flat
    # x / z and y / z of pixels are known up to the field of view, which the plane equation n . p = c settles
    rows, columns = np.nonzero(floor)
    x, y = (columns + 0.5) / 40 - 1, (1 - (rows + 0.5) / 30) * 60 / 80
    inverse = 1 / room.depth[..., 0][floor].astype(float)
    a, b, c = np.linalg.lstsq(np.stack([x, y, np.ones_like(x)], 1), inverse, rcond=None)[0]
    np.testing.assert_allclose(a * x + b * y + c, inverse, rtol=1e-4)
    n = normal[0].astype(float)
    assert n[1] > 0.8  # up
    # n_x s x + n_y s y - n_z = k / z
    spread = -(a / c) * n[2] / n[0]
    assert spread == pytest.approx(-(b / c) * n[2] / n[1], rel=1e-2)
    assert np.tan(np.radians(29)) < spread < np.tan(np.radians(37))


def test_holes_are_a_few_pixels_at_edges():
    whole, holed = (render_room(0, "train", 2, 48, 64, holes=holes) for holes in (False, True))
    assert 0.002 < (holed.depth == 0).mean() < 0.08
    assert 0.002 < (holed.label == -1).mean() < 0.06
    known = holed.depth[..., 0] > 0
    assert np.array_equal(holed.depth[known], whole.depth[known])
    assert np.array_equal(holed.normal[known], whole.normal[known])
    assert (holed.normal[~known] == 0).all()
    assert np.array_equal(holed.image, whole.image)


def test_files_have_the_layout_of_mtan(folder):
    (root,) = folder.iterdir()
    assert root.name == f"rooms-v{room_renderer.VERSION}-24x32-seed0"
    assert json.loads((root / "rooms.json").read_text()) == {"recipe": room_renderer.VERSION, **OPTIONS}
    room = render_room(0, "train", 5, 24, 32)
    files = {kind: np.load(root / "train" / kind / "5.npy") for kind in room_renderer.KINDS}
    assert {kind: (array.shape, array.dtype) for kind, array in files.items()} == {
        "image": ((24, 32, 3), np.float32),
        "label": ((24, 32), np.float32),
        "depth": ((24, 32, 1), np.float32),
        "normal": ((24, 32, 3), np.float32),
    }
    assert np.array_equal(np.rint(files["image"] * 255), room.image)
    assert np.array_equal(files["label"], room.label)
    assert np.array_equal(files["depth"], room.depth)
    assert np.array_equal(files["normal"], room.normal)


def test_splits_have_the_counts_asked_for(folder):
    task = create_task("rooms", **SMALL, train=5, val=1, test=2)
    assert [len(part) for part in task.splits(folder)] == [5, 1, 2]
    assert set(task.prior_losses(task.splits(folder))) == {"segmentation", "depth", "normals"}


def test_rare_classes_count_more(folder):
    task = create_task("rooms", **SMALL, train=6, val=2, test=2)
    task.splits(folder)
    weights = dict(zip(CLASSES, task.objectives[0].criterion.weights, strict=True))
    assert weights["wall"] < weights["floor"] < weights["objects"]
    plain = create_task("rooms", **SMALL, train=6, val=2, test=2, rarity=0.0)
    plain.splits(folder)
    assert plain.objectives[0].criterion.weights is None


@pytest.mark.parametrize("zoom", [False, True])
def test_training_rooms_are_mirrored_and_zoomed_only_if_asked(folder, zoom):
    task = create_task("rooms", **SMALL, train=6, val=2, test=2, zoom=zoom)
    train = task.splits(folder).train
    kinds = set()
    for epoch in range(4):
        train.set_epoch(0, epoch)
        for i in range(len(train)):
            moved, still = train[i].inputs[0], train.get(i).inputs[0]
            same, mirrored = torch.equal(moved, still), torch.equal(moved, still.flip(-1))
            kinds.add("as it is" if same else "mirrored" if mirrored else "zoomed")
    assert kinds == {"as it is", "mirrored"} | ({"zoomed"} if zoom else set())


def test_a_larger_set_keeps_the_rooms_of_a_smaller_one(tmp_path):
    create_task("rooms", **SMALL, train=2, val=1, test=1).splits(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    create_task("rooms", **SMALL, train=3, val=1, test=1).splits(tmp_path)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert len(before), len(after) == (16, 20)
    assert before.items() <= after.items()


def test_an_interrupted_rendering_leaves_only_whole_files_and_goes_on(tmp_path):
    counts = {"train": 2, "val": 1}
    render_rooms(tmp_path, {"train": 0, "val": 0}, OPTIONS)
    order = {"folder": str(tmp_path), "options": OPTIONS, "rooms": [["train", i] for i in range(500)]}
    with subprocess.Popen(room_renderer.COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write(json.dumps(order))
        process.stdin.close()
        first = process.stdout.readline()
        process.kill()
    assert first.strip() == "0"
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert 4 <= len(done) < 2000
    assert all(np.isfinite(np.load(path)).all() for path in done)
    (tmp_path / "train/depth/0.npy").unlink()  # as if it had not got that far
    render_rooms(tmp_path, counts, OPTIONS)
    assert (tmp_path / "train/depth/0.npy").is_file()
    assert (tmp_path / "val/normal/0.npy").is_file()
    assert [path for path, time in done.items() if path.stem != "0" and path.stat().st_mtime_ns != time] == []


def test_rendering_ends_when_nobody_listens(tmp_path):
    """So that no program is left behind when train.py is killed."""
    render_rooms(tmp_path, {"train": 0}, OPTIONS)
    order = {"folder": str(tmp_path), "options": OPTIONS, "rooms": [["train", i] for i in range(10_000)]}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        room_renderer.COMMAND, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    ) as process:
        process.stdout.close()
        process.stdin.write(json.dumps(order))
        process.stdin.close()
        assert process.wait(timeout=30) != 0


def test_a_damaged_room_is_named_with_what_to_do(folder):
    (root,) = folder.iterdir()
    path = root / "test/depth/1.npy"
    path.write_bytes(path.read_bytes()[:-40])
    test = create_task("rooms", **SMALL, train=6, val=2, test=2).splits(folder).test
    with pytest.raises(DataError, match=r"1\.npy is damaged .*delete it, and it is rendered again"):
        test[1]
    path.unlink()
    assert create_task("rooms", **SMALL, train=6, val=2, test=2).splits(folder).test[1].targets


def test_rooms_that_are_there_need_no_writing(folder, monkeypatch):
    monkeypatch.setattr("tasks.rooms._alone", None)
    assert len(create_task("rooms", **SMALL, train=6, val=2, test=2).splits(folder).train) == 6
    with pytest.raises(TypeError):  # one more is rendered
        create_task("rooms", **SMALL, train=7, val=2, test=2).splits(folder)


def test_a_folder_of_other_rooms_is_refused(folder, tmp_path):
    render_rooms(tmp_path, {"train": 1}, OPTIONS)
    with pytest.raises(DataError, match=r"rooms\.json says that this folder holds other rooms"):
        render_rooms(tmp_path, {"train": 1}, {**OPTIONS, "seed": 1})


def test_a_renderer_that_fails_says_why(tmp_path):
    with pytest.raises(DataError, match=r"rendering into .* failed .*unexpected keyword"):
        render_rooms(tmp_path, {"train": 1}, {**OPTIONS, "colour": 1})


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write to"):
        create_task("rooms", **SMALL).splits(tmp_path / "file")


@pytest.mark.parametrize("arguments", [{"height": 4}, {"train": 0}, {"seed": -1}, {"protocol": "best"}, {"jitter": 9}])
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        create_task("rooms", **arguments)


def test_rooms_that_were_missing_are_told(tmp_path):
    options = {"height": 16, "width": 16, "train": 3, "val": 1, "test": 1}
    assert create_task("rooms", **options).splits(tmp_path).notes == ()
    (folder,) = tmp_path.glob("rooms*")
    (folder / "train/depth/1.npy").unlink()
    (note,) = create_task("rooms", **options).splits(tmp_path).notes
    assert note == f"{folder} lacked 1 of 5 rooms, which were rendered again (first train 1)"
    assert create_task("rooms", **options).splits(tmp_path).notes == ()
    for damage in ("[" * 100_000, None):
        (folder / "rooms.json").unlink()
        if damage:
            (folder / "rooms.json").write_text(damage)
        with pytest.raises(DataError, match="move the folder away"):
            create_task("rooms", **options).splits(tmp_path)
