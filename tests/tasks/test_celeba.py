"""CelebA in all of its public trees, with a dozen faces drawn here."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

import mozoo
from tasks import DataError, create_task
from tasks.celeba import ATTRIBUTES

COUNTS = (8, 3, 2)
LABELS = np.array([[(i // (1 + j % 4)) % 2 for j in range(40)] for i in range(sum(COUNTS))])


def build(root, anno="", evaluation="", images="img_align_celeba", suffix=".jpg", table=False):
    """A tree in the layout of the benchmark: values 1 and -1 in padded columns, a partition, and images of 178x218 pixels."""
    for part in (anno, evaluation, images):
        (root / part).mkdir(parents=True, exist_ok=True)
    names = [f"{i + 1:06}" for i in range(sum(COUNTS))]
    rows = (
        f"{name}.jpg " + " ".join(f"{2 * value - 1:2}" for value in row)
        for name, row in zip(names, LABELS, strict=True)
    )
    text = f"{len(names)}\n{' '.join(ATTRIBUTES)} \n" + "\n".join(rows) + "\n"
    (root / anno / "list_attr_celeba.txt").write_text(text)
    parts = np.repeat([0, 1, 2], COUNTS)
    (root / evaluation / "list_eval_partition.txt").write_text(
        "".join(f"{name}.jpg {part}\n" for name, part in zip(names, parts, strict=True))
    )
    if table:
        for file, head in (
            (root / anno / "list_attr_celeba.txt", "image_id " + " ".join(ATTRIBUTES)),
            (root / evaluation / "list_eval_partition.txt", "image_id partition"),
        ):
            lines = [head, *(line for line in file.read_text().splitlines() if ".jpg" in line)]
            file.with_suffix(".csv").write_text("".join(",".join(line.split()) + "\n" for line in lines))
            file.unlink()
    for i, name in enumerate(names):
        pixels = np.zeros((218, 178, 3), np.uint8)
        pixels[:, : 10 * (i + 1)] = 255
        Image.fromarray(pixels).save(root / images / f"{name}{suffix}")
    return root


TREES = {
    "torchvision": {},
    "official": {"anno": "Anno", "evaluation": "Eval", "images": "Img/img_align_celeba"},
    "png": {"anno": "Anno", "evaluation": "Eval", "images": "Img/img_align_celeba_png", "suffix": ".png"},
    "kaggle": {"images": "img_align_celeba/img_align_celeba", "table": True},
}


@pytest.mark.parametrize("place", ["celeba", "CelebA", ""])
@pytest.mark.parametrize("tree", TREES)
def test_all_public_trees_are_read(tmp_path, tree, place):
    build(tmp_path / place, **TREES[tree])
    task = create_task("celeba")
    splits = task.splits(tmp_path)
    assert tuple(len(part) for part in splits) == COUNTS
    assert [objective.name for objective in task.objectives] == list(ATTRIBUTES)
    labels = torch.stack([splits.val.targets[name] for name in ATTRIBUTES], dim=1)
    assert labels.tolist() == LABELS[8:11].tolist()
    image = splits.val[0].inputs[0]
    assert image.shape == (3, 64, 64)
    assert 0 <= image.min() < image.max() <= 1
    assert image[0, 32].gt(0.5).sum() == pytest.approx(90 / 178 * 64, abs=1)  # the ninth face, stretched


def test_a_run_refuses_other_images_or_attributes(tmp_path):
    root = build(tmp_path / "celeba")
    task = create_task("celeba", attributes=["Young"])
    task.splits(tmp_path)
    for change, found in {"partition": "'split'", "attribute": "'attributes'"}.items():
        path = root / ("list_eval_partition.txt" if change == "partition" else "list_attr_celeba.txt")
        text = path.read_text()
        path.write_text(
            text.replace("000002.jpg 0", "000002.jpg 2") if change == "partition" else text.replace(" 1\n", " -1\n", 1)
        )
        again = create_task("celeba", attributes=["Young"])
        again.load_state_dict(task.state_dict())
        with pytest.raises(
            DataError, match=f"celeba has changed since training .*{found}.* row .*jpg.*restore it, or train anew$"
        ):
            again.splits(tmp_path)
        path.write_text(text)
    again.splits(tmp_path)


def test_there_are_forty_attributes_and_models_are_told(tmp_path):
    info = create_task("celeba").info
    assert len(info["classifiers"]) == len(set(ATTRIBUTES)) == 40
    assert set(info["classifiers"].values()) == {2}
    assert (info["in_channels"], info["image_size"], info["regressors"]) == (3, 64, {})
    torch.nn.ModuleDict({name: torch.nn.Identity() for name in info["classifiers"]})


def test_some_attributes_are_fewer_objectives(tmp_path):
    build(tmp_path)
    task = create_task("celeba", attributes=["Smiling", "Bald"], image_size=16)
    sample = task.splits(tmp_path).test[1]
    assert list(sample.targets) == ["Smiling", "Bald"]
    assert [int(label) for label in sample.targets.values()] == [
        LABELS[12][ATTRIBUTES.index(n)] for n in sample.targets
    ]
    assert sample.inputs[0].shape == (3, 16, 16)
    train = task.splits(tmp_path).train.targets["Smiling"].double().mean().item()
    assert task.initial_losses(task.splits(tmp_path)) == pytest.approx({"Smiling": math.log(2), "Bald": math.log(2)})
    entropy = -train * math.log(train) - (1 - train) * math.log(1 - train)
    assert task.prior_losses(task.splits(tmp_path))["Smiling"] == pytest.approx(entropy)


def test_the_loss_is_the_binary_cross_entropy_of_the_difference_of_logits():
    logits, labels = torch.randn(9, 2), torch.randint(0, 2, (9,))
    (objective,) = create_task("celeba", attributes=["Young"]).objectives
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], labels.float())
    torch.testing.assert_close(objective.criterion(logits, labels), expected)


def test_f1_and_accuracy_are_those_of_the_yes_class():
    (objective,) = create_task("celeba", attributes=["Bald"]).objectives
    logits = torch.tensor([[2.0, 1], [1, 2], [1, 2], [2, 1], [2, 1]])
    prediction, label = objective.criterion.labelled_pairs(logits, torch.tensor([0, 1, 0, 1, 0]))
    values = {}
    for key, measure in objective.metrics.items():
        metric = measure.make()
        metric.update(measure.transform(prediction), measure.transform(label))
        values[key] = metric.compute().item()
    assert values == pytest.approx({"accuracy": 0.6, "f1": 0.5})


def test_only_training_images_are_mirrored(tmp_path):
    build(tmp_path)
    plain, mirrored = (create_task("celeba", flip=flip).splits(tmp_path) for flip in (0.0, 1.0))
    assert torch.equal(mirrored.train[0].inputs[0], plain.train[0].inputs[0].flip(-1))
    assert torch.equal(mirrored.test[0].inputs[0], plain.test[0].inputs[0])


def test_workers_change_nothing(tmp_path):
    build(tmp_path)
    train = create_task("celeba", flip=0.5).splits(tmp_path).train
    alone, helped = (
        list(mozoo.data.training_batches(train, 4, 0, 0, 0, torch.device("cpu"), workers)) for workers in (0, 2)
    )
    assert all(torch.equal(a.inputs[0], b.inputs[0]) for a, b in zip(alone, helped, strict=True))


def rewrite(path, change):
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


ATTR, EVAL = "list_attr_celeba.txt", "list_eval_partition.txt"


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (ATTR, lambda rows: rows[:-2], "says 13 images and has 11; it is incomplete"),
        (ATTR, lambda rows: [], "another file"),
        (ATTR, lambda rows: [rows[0], rows[1].replace("Bald", "Hairless"), *rows[2:]], "another file"),
        (ATTR, lambda rows: [*rows[:4], rows[4][:-6], *rows[5:]], "line 5: a file name and forty"),
        (ATTR, lambda rows: [*rows[:4], rows[4].replace("-1", " 0"), *rows[5:]], "line 5: a file name and forty"),
        (
            ATTR,
            lambda rows: [*rows[:2], *(row.replace("-1", " 1") for row in rows[2:])],
            "5_o_Clock_Shadow is the same",
        ),
        (EVAL, lambda rows: [*rows[:2], "000003.jpg 3", *rows[3:]], "line 3: a file name and 0, 1 or 2"),
        (EVAL, lambda rows: rows[:-1], "do not name the same images, first 000013.jpg"),
        (EVAL, lambda rows: [row.replace(" 1", " 0") for row in rows], "no image of the split 'val'"),
    ],
)
def test_a_damaged_list_is_named(tmp_path, file, damage, message):
    rewrite(build(tmp_path) / file, damage)
    with pytest.raises(DataError, match=file.replace(".", r"\.")) as caught:
        create_task("celeba").splits(tmp_path)
    assert message in str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no list_attr_celeba\.txt in .*celeba.*download"):
        create_task("celeba").splits(tmp_path)
    build(tmp_path)
    (tmp_path / "img_align_celeba/000004.jpg").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of the 13 images .* first 000004\.jpg"):
        create_task("celeba").splits(tmp_path)
    (tmp_path / "img_align_celeba").rename(tmp_path / "faces")
    with pytest.raises(DataError, match=r"unpack img_align_celeba\.zip"):
        create_task("celeba").splits(tmp_path)
    (tmp_path / EVAL).unlink()
    with pytest.raises(DataError, match=r"but not .*list_eval_partition\.txt"):
        create_task("celeba").splits(tmp_path)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [(["Smilling"], "did you mean Smiling"), ([], "at least one"), (["Bald", "Bald"], "none of them twice")],
)
def test_attributes_are_checked(attributes, message):
    with pytest.raises(ValueError, match=message):
        create_task("celeba", attributes=attributes)
