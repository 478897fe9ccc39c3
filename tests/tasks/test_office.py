"""Office-31 and Office-Home, with a few images of each domain drawn here and lists in the published layout."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import mozoo
from mozoo import tools
from tasks import DataError, create_task

CPU = torch.device("cpu")
NAMES = ("back_pack", "paper_notebook", "desktop_computer")  # classes 0, 1, 2 of Office-31
COUNTS = {"amazon": (7, 4, 4), "dslr": (3, 2, 2), "webcam": (5, 2, 3)}


def build(root, counts=COUNTS, names=NAMES, inner="images", lists=None):
    """``<domain>/images/<class>/<file>`` and ``<domain>_<split>.txt``; the domain is the red channel, the image the green one."""
    for number, (domain, sizes) in enumerate(counts.items()):
        start = 0
        for split, size in zip(("train", "val", "test"), sizes, strict=True):
            lines = []
            for i in range(start, start + size):
                path = "/".join(part for part in (domain, inner, names[i % 3], f"frame_{i:04}.jpg") if part)
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((12, 16, 3), (80 * number, 16 * i, 0), np.uint8)).save(root / path, quality=95)
                lines.append(f"{path} {i % 3}\n")
            start += size
            folder = lists or root
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{domain}_{split}.txt").write_text("".join(lines))
    return root


def task_in(root, **options):
    task = create_task("office", **{"image_size": 8, **options})
    task.splits(root)
    return task


def identity(image):
    """Numbers of the domain and of the image, from its colour."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    red, green, _ = ((image.mean((1, 2)) * std + mean) * 255).tolist()
    return round(red / 80), round(green / 16)


class Tiny(nn.Module):
    """A model for one image, with a head for each domain."""

    def __init__(self, domains=tuple(COUNTS)):
        super().__init__()
        self.trunk = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
        self.head = nn.ModuleDict({name: nn.Linear(5, 31) for name in domains})

    def features(self, x):
        return self.trunk(x)

    def heads(self, features):
        return {name: head(features) for name, head in self.head.items()}

    def forward(self, x):
        return self.heads(self.features(x))


@pytest.mark.parametrize("place", ["office_31", "office-31", ""])
def test_the_public_tree_is_read(tmp_path, place):
    build(tmp_path / place)
    task = task_in(tmp_path)
    train, val, test = task.splits()
    assert [objective.name for objective in task.objectives] == list(COUNTS)
    assert [[len(part) for part in split.parts.values()] for split in (train, val, test)] == [
        list(sizes) for sizes in zip(*COUNTS.values(), strict=True)
    ]
    assert task.objectives[0].criterion.classes[:4] == (*NAMES, "class 3")
    assert task.info["classifiers"] == dict.fromkeys(COUNTS, 31)
    assert (task.info["in_channels"], task.info["image_size"], task.info["regressors"]) == (3, 8, {})


def test_office_home_has_four_domains_and_lists_may_lie_elsewhere(tmp_path):
    counts = dict.fromkeys(("Art", "Clipart", "Product", "Real_World"), (3, 2, 2))
    build(tmp_path / "office_home", counts, ("Calendar", "Postit_Notes", "Candles"), inner="", lists=tmp_path / "lists")
    task = task_in(tmp_path, data="office_home", lists=str(tmp_path / "lists"))
    assert [objective.name for objective in task.objectives] == list(counts)
    assert task.info["classifiers"]["Art"] == 65
    images = task.splits().train[0].inputs
    assert len(images) == 4
    (tmp_path / "office_home" / "Real_World").rename(tmp_path / "office_home" / "Real World")  # as in the archive
    again = task_in(tmp_path, data="office_home", lists=str(tmp_path / "lists"))
    assert all(map(torch.equal, images, again.splits().train[0].inputs))


def test_a_sample_holds_an_image_and_a_label_of_each_domain(tmp_path):
    train = task_in(build(tmp_path)).splits().train
    for sample in (train[i] for i in range(len(train))):
        assert [tuple(image.shape) for image in sample.inputs] == [(3, 8, 8)] * 3
        for number, (image, label) in enumerate(zip(sample.inputs, sample.targets.values(), strict=True)):
            domain, frame = identity(image)
            assert domain == number
            assert label == frame % 3


def test_an_epoch_shows_the_largest_domain_once_and_repeats_the_others_evenly(tmp_path):
    train = task_in(build(tmp_path)).splits().train
    assert len(train) == 7
    pairs = []
    for epoch in range(3):
        train.set_epoch(0, epoch)
        frames = [[identity(image)[1] for image in train[i].inputs] for i in range(7)]
        amazon, dslr, webcam = (sorted(column) for column in zip(*frames, strict=True))
        assert amazon == list(range(7))
        assert [dslr.count(i) for i in range(3)] in ([3, 2, 2], [2, 3, 2], [2, 2, 3])
        assert sorted(webcam.count(i) for i in range(5)) == [1, 1, 1, 2, 2]
        pairs.append(frames)
    assert pairs[0] != pairs[1] != pairs[2]
    train.set_epoch(0, 1)
    assert [[identity(image)[1] for image in train[i].inputs] for i in range(7)] == pairs[1]


def test_an_evaluation_counts_every_image_once(tmp_path):
    test = task_in(build(tmp_path)).splits().test
    assert len(test) == 4
    labels = {name: [int(test[i].targets[name]) for i in range(4)] for name in COUNTS}
    assert {name: sum(label >= 0 for label in column) for name, column in labels.items()} == {
        "amazon": 4,
        "dslr": 2,
        "webcam": 3,
    }
    assert labels["dslr"][2:] == [-1, -1]
    assert test[3].inputs[1].abs().max() == 0


def test_each_domain_passes_the_model_by_itself(tmp_path):
    task = task_in(build(tmp_path))
    torch.manual_seed(0)
    model = Tiny()
    (batch,) = mozoo.data.training_batches(task.splits().train, 7, 0, 0, 0, CPU, 0)
    losses, features = task.losses(model, batch, "train")
    for index, name in enumerate(COUNTS):
        expected = nn.functional.cross_entropy(model(batch.inputs[index])[name], batch.targets[name])
        torch.testing.assert_close(losses[name], expected)
    assert [tuple(part.shape) for part in features] == [(7, 5)] * 3
    gradients = torch.autograd.grad(losses["dslr"], [*model.parameters(), *features], allow_unused=True)
    reached = [name for (name, _), g in zip(model.named_parameters(), gradients, strict=False) if g is not None]
    assert reached == ["trunk.2.weight", "trunk.2.bias", "head.dslr.weight", "head.dslr.bias"]
    assert [g is not None for g in gradients[-3:]] == [False, True, False]


def test_evaluation_uses_each_domains_own_head(tmp_path):
    task = task_in(build(tmp_path))
    model = Tiny()
    for number, head in enumerate(model.head.values()):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        head.bias.data[number] = 1.0  # amazon always says class 0, dslr 1, webcam 2
    test = task.splits().test
    found = tools.evaluate(model, task, task.splits(), 3, tools.Precision("fp32", CPU), name="test")
    assert found is not None
    for number, name in enumerate(COUNTS):
        labels = test.targets[name]
        assert len(found.predictions[name][1]) == len(labels)
        assert found.values[f"{name}/accuracy"] == pytest.approx((labels == number).float().mean().item())


def test_a_model_with_fewer_domains_will_do(tmp_path):
    task = task_in(build(tmp_path))
    task = task.restrict(["dslr"])
    (batch,) = mozoo.data.training_batches(task.splits().train, 7, 0, 0, 0, CPU, 0)
    losses, features = task.losses(Tiny(("dslr",)), batch, "train")
    assert list(losses) == ["dslr"]
    assert len(features) == 1
    assert list(task.outputs(Tiny(("dslr",)), batch)) == ["dslr"]


def test_reference_losses_count_each_image_once(tmp_path):
    task = task_in(build(tmp_path))
    assert task.initial_losses(task.splits()) == pytest.approx(dict.fromkeys(COUNTS, np.log(31)))
    assert task.prior_losses(task.splits())["dslr"] == pytest.approx(np.log(3))


def test_workers_and_resuming_change_nothing(tmp_path):
    train = task_in(build(tmp_path), flip=0.5, crop=0.5).splits().train
    whole = list(mozoo.data.training_batches(train, 2, 0, 1, 0, CPU, 0))
    helped = list(mozoo.data.training_batches(pickle.loads(pickle.dumps(train)), 2, 0, 1, 0, CPU, 2))
    rest = list(mozoo.data.training_batches(task_in(tmp_path, flip=0.5, crop=0.5).splits().train, 2, 0, 1, 2, CPU, 0))
    for a, b in [*zip(whole, helped, strict=True), (whole[2], rest[0])]:
        assert all(torch.equal(x, y) for x, y in zip(a.inputs, b.inputs, strict=True))
        assert all(torch.equal(a.targets[name], b.targets[name]) for name in COUNTS)


def test_repeated_images_are_augmented_apart(tmp_path):
    train = task_in(build(tmp_path), crop=0.3).splits().train
    for domain in train.parts.values():  # as if every file were the same
        domain.paths = domain.paths[:1] * len(domain)
    ramp = np.broadcast_to(np.arange(0, 240, 15, dtype=np.uint8)[:, None], (12, 16, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(train.parts["dslr"].paths[0])
    images = torch.stack([train[i].inputs[1] for i in range(7)])
    assert len({image.numpy().tobytes() for image in images}) > 5


LIST = "dslr_train.txt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [rows[0], rows[1][:-1] + "31", rows[2]], "line 2: a path and a class from 0 to 30 are expected"),
        (lambda rows: [rows[0], rows[1][:-2], rows[2]], "line 2: a path and a class from 0 to 30 are expected"),
        (
            lambda rows: [rows[0], rows[1][:-1] + "2", rows[2]],
            "class 2 is paper_notebook here and desktop_computer in an",
        ),
        (lambda rows: [rows[0], rows[1].replace("0001", "9999"), rows[2]], "line 2: there is no image"),
        (lambda rows: [], "has images of 0 classes"),
        (lambda rows: rows[:1], "has images of 1 classes"),
    ],
)
def test_a_damaged_list_is_named_with_the_line(tmp_path, change, message):
    path = build(tmp_path) / LIST
    path.write_text("\n".join(change(path.read_text().splitlines())))
    with pytest.raises(DataError, match=r"dslr_train\.txt") as caught:
        task_in(tmp_path)
    assert message in str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no folder amazon in .*office_31.*download the images"):
        task_in(tmp_path)
    build(tmp_path)
    (tmp_path / LIST).unlink()
    with pytest.raises(DataError, match=r"there is no list .*dslr_train\.txt"):
        task_in(tmp_path)
    (tmp_path / "amazon_train.txt").unlink()
    with pytest.raises(DataError, match=r"no list amazon_train\.txt in .*task\.lists"):
        task_in(tmp_path)


def test_unknown_data_are_refused():
    with pytest.raises(ValueError, match="office_31 or office_home"):
        create_task("office", data="office_99")
