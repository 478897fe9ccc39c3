"""Augmentation: image, labels, depth and normals stay one scene, and randomness is a function of seed, epoch and index."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tasks.joint_transforms import JointTransform
from tasks.resampling import resize_sample
from tasks.task import sample_seed

H, W = 24, 36
CLOSER = {"segmentation": "classes", "depth": "disparity", "normals": "normals"}


def scene(seed=0):
    """Every map says which pixel it is from, so that any of them being moved differently shows."""
    rows, columns = np.mgrid[:H, :W].astype(np.float32)
    normals = np.random.RandomState(seed).randn(3, H, W).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=0)
    normals[:, 8:14, 12:20] = 0
    return {
        "image": np.stack([rows / H, columns / W, np.zeros_like(rows)], axis=2),
        "segmentation": (columns // 3).astype(np.int16),
        "depth": 1 + rows,
        "normals": normals,
    }


def copied(sample):
    return {name: values.copy() for name, values in sample.items()}


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_a_mirror_negates_the_x_of_normals():
    sample = scene()
    moved = JointTransform(zooms=(1.0,), mirror=1.0)(copied(sample), 0)
    for name in ("image", "segmentation", "depth"):
        np.testing.assert_array_equal(moved[name], sample[name][:, ::-1])
    np.testing.assert_array_equal(moved["normals"], sample["normals"][..., ::-1] * np.float32([[[-1]], [[1]], [[1]]]))


def test_a_wall_seen_from_the_other_side_is_its_mirror_image():
    left, right = (np.tile(np.float32([[[x]], [[0]], [[0.8]]]), (1, H, W)) for x in (-0.6, 0.6))
    facing_left = {"image": np.zeros((H, W, 3), np.float32), "normals": left}
    moved = JointTransform(zooms=(1.0,), mirror=1.0)(facing_left, 0)["normals"]
    np.testing.assert_array_equal(moved, right)


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({}, 1 / 1.5),
        ({"kinds": CLOSER}, 1.5),
        ({"protocol": "mtan"}, 1 / 1.5),
        ({"kinds": CLOSER, "protocol": "mtan"}, 1 / 1.5),
    ],
)
def test_zooming_in_brings_everything_closer(options, factor):
    sample = {**scene(), "depth": np.full((H, W), 3.0, np.float32)}
    sample["depth"][:, :4] = 0
    moved = JointTransform(zooms=(1.5,), mirror=0, **options)(sample, 0)["depth"]
    assert set(np.unique(moved)) <= {np.float32(0), np.float32(3) * np.float32(factor)}


def test_all_maps_show_the_same_window():
    for seed in range(5):
        sample = scene()
        moved = JointTransform(zooms=(1.5,), mirror=0)(copied(sample), seed)
        row = moved["image"][..., 0] * H
        column = moved["image"][..., 1] * W
        assert np.abs(row - (moved["depth"] * 1.5 - 1)).max() <= 1
        assert np.abs(column / 3 - (moved["segmentation"] + 0.5)).max() <= 1
        assert row.max() - row.min() == pytest.approx(H / 1.5 - 1, abs=0.01)


def test_normals_have_length_1_again_or_stay_unknown():
    moved = JointTransform(zooms=(1.2,), mirror=0)(scene(), 3)["normals"]
    length = np.linalg.norm(moved, axis=0)
    assert ((np.abs(length - 1) < 1e-5) | (length == 0)).all()
    assert (length == 0).any()


def test_the_mtan_protocol_is_the_arithmetic_of_public_code():
    sample, move = scene(), JointTransform(zooms=(1.5,), mirror=0, protocol="mtan")
    moved = move(copied(sample), 5)
    rows, columns = int(H / 1.5), int(W / 1.5)
    top = round(float(moved["image"][0, 0, 0]) * H)
    left = round(float(moved["image"][0, 0, 1]) * W)
    window = (slice(top, top + rows), slice(left, left + columns))

    def public(values, **options):
        return F.interpolate(torch.from_numpy(values.astype(np.float32))[None], (H, W), **options)[0].numpy()

    linear = {"mode": "bilinear", "align_corners": True}
    image = public(sample["image"][window].transpose(2, 0, 1), **linear)
    np.testing.assert_allclose(moved["image"].transpose(2, 0, 1), image, atol=1e-6)
    np.testing.assert_array_equal(moved["normals"], public(sample["normals"][:, window[0], window[1]], **linear))
    for name, factor in (("segmentation", 1), ("depth", 1 / 1.5)):
        wanted = public(sample[name][None, window[0], window[1]], mode="nearest")[0] * factor
        np.testing.assert_allclose(moved[name], wanted, rtol=1e-6)


def test_the_same_seed_gives_the_same_sample_whatever_came_before():
    move, other = JointTransform(jitter=0.3), JointTransform(jitter=0.3)
    other(scene(), 99)
    assert same(move(scene(), 7), other(scene(), 7))
    assert not same(move(scene(), 7), move(scene(), 8))


def test_seeds_of_samples_do_not_repeat():
    seeds = {sample_seed(seed, epoch, index) for seed in range(3) for epoch in range(10) for index in range(50)}
    assert len(seeds) == 1500


def test_every_zoom_and_both_sides_come_up():
    move = JointTransform()
    moved = [move(scene(), seed) for seed in range(40)]
    spans = {round(float(np.ptp(sample["image"][..., 0])) * H) for sample in moved}
    assert spans == {round(H / zoom) - 1 for zoom in (1.0, 1.2, 1.5)}
    mirrored = sum(sample["image"][0, 0, 1] > sample["image"][0, -1, 1] for sample in moved)
    assert 8 < mirrored < 32


def test_colours_change_without_leaving_their_range_and_maps_do_not_care():
    sample = scene()
    moved = JointTransform(zooms=(1.0,), mirror=0, jitter=0.5)(copied(sample), 1)
    assert not np.array_equal(moved["image"], sample["image"])
    assert moved["image"].min() >= 0
    assert moved["image"].max() <= 1
    assert all(np.array_equal(moved[name], sample[name]) for name in ("segmentation", "depth", "normals"))


def test_types_stay():
    moved = JointTransform(zooms=(1.2,), mirror=1.0, jitter=0.1)(scene(), 0)
    assert {name: str(values.dtype) for name, values in moved.items()} == {
        **dict.fromkeys(("image", "depth", "normals"), "float32"),
        "segmentation": "int16",
    }


def test_a_map_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="edges"):
        JointTransform()({**scene(), "edges": scene()["depth"]}, 0)


@pytest.mark.parametrize("options", [{"zooms": (0.5,)}, {"zooms": ()}, {"mirror": 2}, {"jitter": -1}])
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        JointTransform(**options)


def test_resizing_keeps_labels_whole_and_normals_at_length_1():
    small = resize_sample(scene(), 12, 18)
    assert small["image"].shape == (12, 18, 3)
    assert small["normals"].shape == (3, 12, 18)
    np.testing.assert_array_equal(small["segmentation"], scene()["segmentation"][::2, ::2])
    np.testing.assert_array_equal(small["depth"], scene()["depth"][::2, ::2])
    length = np.linalg.norm(small["normals"], axis=0)
    assert ((np.abs(length - 1) < 1e-5) | (length == 0)).all()
