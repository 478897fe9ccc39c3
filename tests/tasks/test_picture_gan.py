"""Pictures of one's own for a GAN: what a folder becomes, a whole run, and what is said about mistakes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import mozoo
import train
from mozoo.prediction import load_predictor
from tasks import DataError, create_task

COLORS = {"blue": (0, 0, 200), "red": (200, 0, 0)}


def pictures(root, count=60, flat=False):
    for i in range(count):
        name = sorted(COLORS)[i % 2]
        folder = root if flat else root / name
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.tile(np.array(COLORS[name], np.uint8), (12 + i % 3, 16, 1)) + np.uint8(i % 40)
        Image.fromarray(pixels).save(folder / f"{name}{i}.png")
    return root


def test_subfolders_are_classes_and_numbers_are_between_minus_one_and_one(tmp_path):
    task = create_task("picture_gan", folder=str(pictures(tmp_path / "p")), image_size=8)
    train_, val, test = task.splits(tmp_path)
    assert sum(len(part) for part in (train_, val, test)) == 60
    assert min(len(val), len(test)) >= 8
    assert task.classes == ("blue", "red")
    assert [o.name for o in task.objectives] == ["real_fake", "real_class", "adversarial", "fake_class"]
    assert task.info == {"in_channels": 3, "image_size": 8, "classes": 2}
    images, codes = train_.inputs[0], train_.targets["real_class"]
    assert images.shape[1:] == (3, 8, 8)
    assert images.min() >= -1
    assert images.max() <= 1
    assert torch.equal(images[:, 0].mean((1, 2)) > images[:, 2].mean((1, 2)), codes == 1)


@pytest.mark.parametrize("options", [{"flat": True}, {"labels": False}])
def test_pictures_without_classes_and_gray_ones(tmp_path, options):
    root = pictures(tmp_path / "p", flat=options.get("flat", False))
    task = create_task("picture_gan", folder=str(root), image_size=8, color=False, labels=options.get("labels", True))
    splits = task.splits(tmp_path)
    assert splits.train.inputs[0].shape[1] == 1
    assert splits.train.targets == {}
    assert [o.name for o in task.objectives] == ["real_fake", "adversarial"]


def test_a_run_from_a_folder_to_samples(tmp_path, monkeypatch):
    root = pictures(tmp_path / "p")
    words = ("model=gan", "task=picture_gan", f"task.folder={root}", "task.image_size=8", "model.width=4")
    short = ("trainer.max_steps=4", "trainer.batch_size=16", "trainer.device=cpu", "logger.tensorboard=false")
    summary = train.run(mozoo.compose([*words, *short, f"run_dir={tmp_path / 'run'}", f"data_dir={tmp_path}"]))
    assert summary["metrics"]["test/samples/frechet"] > 0
    assert (tmp_path / "run/report.html").is_file()
    samples, names = load_predictor(tmp_path / "run", "cpu").sample(4)
    assert samples.shape == (4, 3, 8, 8)
    assert names == ["blue", "red"] * 2
    real = create_task("picture_gan", folder=str(root), image_size=8)
    real.load_state_dict(json.loads((tmp_path / "run/best/config.json").read_text())["learnt"])
    (root / "green").mkdir()
    (root / "red/red1.png").rename(root / "green/a.png")
    with pytest.raises(DataError, match="has the classes blue, green, red, and the run has learnt blue, red"):
        real.splits(tmp_path)


def test_the_distance_is_zero_for_the_pictures_themselves(tmp_path):
    task = create_task("picture_gan", folder=str(pictures(tmp_path / "p", flat=True)), image_size=8)
    splits = task.splits(tmp_path)
    batch = splits.val.batch(torch.arange(len(splits.val)))

    class Same:
        latent, classes = 2, 0

        def generate(self, noise, labels):
            return batch.inputs[0] + self.off

    found = []
    for Same.off in (0.0, 0.5):
        found.append(task.evaluate(Same(), splits, "val", [batch])["samples/frechet"])
    assert found[0] == pytest.approx(0, abs=1e-3)
    assert found[1] == pytest.approx(0.25 * 3 * 64, rel=1e-3)


def damaged(root, kind):
    if kind == "few":
        return pictures(root, 10)
    if kind == "mixed":
        pictures(pictures(root), 2, flat=True)
    elif kind == "broken":
        (pictures(root) / "red/red1.png").write_bytes(b"\x89PNG")
    elif kind == "gone":
        return root / "nowhere"
    return root


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("few", "has 10 pictures .*, and a GAN needs at least 50"),
        (
            "mixed",
            "has pictures and folders of pictures, such as blue0.png and blue/; move them, or set task.labels=false",
        ),
        ("broken", "cannot read image .*red1.png .*; replace it, or take it out"),
        ("gone", "there is no folder"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_message(tmp_path, kind, told):
    with pytest.raises(DataError, match=rf"^picture_gan: .*{told}"):
        create_task("picture_gan", folder=str(damaged(tmp_path / "p", kind)), image_size=8).splits(tmp_path)


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="image_size must be at least 8"):
        create_task("picture_gan", image_size=4)
    with pytest.raises(DataError, match=r"task\.folder=photos"):
        create_task("picture_gan").splits()


def test_hidden_folders_do_not_count(tmp_path):
    root = pictures(tmp_path / "p")
    (root / ".checkpoints").mkdir()
    (root / "blue/blue0.png").rename(root / ".checkpoints/blue0.png")
    task = create_task("picture_gan", folder=str(root), image_size=8)
    assert sum(len(part) for part in task.splits(tmp_path)) == 59
    assert task.classes == ("blue", "red")


def test_pictures_that_have_changed_since_training_are_refused(tmp_path):
    root = pictures(tmp_path / "p")
    task = create_task("picture_gan", folder=str(root), image_size=8)
    task.splits(tmp_path)
    (root / "red/red1.png").rename(root / "red/red99.png")
    again = create_task("picture_gan", folder=str(root), image_size=8)
    again.load_state_dict(task.state_dict())
    with pytest.raises(DataError, match=r"has changed since training .*restore it, or train anew$"):
        again.splits(tmp_path)
