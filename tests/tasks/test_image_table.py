"""Images of one's own: what the table says, what the pictures become, and what is said about mistakes in either."""

import json
import math
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image

import mozoo
import train
from tasks import Batch, DataError, create_task
from tasks.image_reading import View
from tasks.image_table import ImageTable

COLORS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}
CPU = torch.device("cpu")


def draw(path, colour=(200, 0, 0), size=(20, 12)):
    """A picture whose left half is brighter, so that every flip and crop shows."""
    pixels = np.tile(np.array(colour, np.uint8), (size[1], size[0], 1))
    pixels[:, : size[0] // 2] += np.linspace(5, 50, size[0] // 2).astype(np.uint8)[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Forty images and labels.csv: the species is the colour, every fifth weight and the first species are missing."""
    lines = ["path,split,species,weight"]
    for i in range(40):
        species = sorted(COLORS)[i % 3]
        draw(tmp_path / f"photos/{i}.png", COLORS[species])
        split = "train" if i < 20 else "val" if i < 30 else "test"
        lines.append(f"photos/{i}.png,{split},{species if i else ''},{'' if i % 5 == 0 else 10 + i}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def task_in(folder, /, classification=("species",), regression=("weight",), **options):
    return create_task(
        "image_table",
        csv=str(folder / "labels.csv"),
        classification=classification,
        regression=regression,
        **{"image_size": 8, **options},
    )


def rewrite(folder, change):
    path = folder / "labels.csv"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_columns_become_objectives_and_facts_for_models(folder):
    task = task_in(folder)
    train, val, test = task.splits()
    assert [len(part) for part in (train, val, test)] == [20, 10, 10]
    assert [objective.name for objective in task.objectives] == ["species", "weight"]
    assert task.objectives[0].criterion.classes == ("blue", "green", "red")
    assert task.info["classifiers"] == {"species": 3}
    assert task.info["regressors"] == {"weight": 1}
    assert (task.info["in_channels"], task.info["image_size"]) == (3, 8)
    assert task.auto_value("classification", task.splits()) == ("species",)


def test_empty_cells_are_masked(folder):
    train = task_in(folder).splits().train
    assert train.targets["species"].tolist() == [-1, *(i % 3 for i in range(1, 20))]
    assert train.targets["weight"].isnan().flatten().tolist() == [i % 5 == 0 for i in range(20)]
    assert train[0].targets["species"] == -1
    assert train[5].targets["weight"].isnan().all()


def test_numbers_are_standardised_by_training_and_errors_are_in_their_unit(folder):
    task = task_in(folder)
    splits = task.splits()
    known = splits.train.targets["weight"][~splits.train.targets["weight"].isnan()]
    assert abs(known.mean()) < 1e-6
    assert known.std(correction=0) == pytest.approx(1, abs=1e-5)
    mae = task.objectives[1].metrics["mae"]
    assert mae.transform(splits.test.targets["weight"][1]).item() == pytest.approx(10 + 31)
    assert mae.transform(torch.zeros(1)).item() == pytest.approx(np.mean([10 + i for i in range(20) if i % 5]))


@pytest.mark.parametrize("names", [("1", "10", "2"), ("-1", "0", "1"), ("1.0", "10.0", "2.0")])
def test_class_names_that_are_numbers_are_sorted_as_numbers(folder, names):
    lines = ["path,species,weight", *(f"photos/{i}.png,{names[i % 3]},{i}" for i in range(40))]
    rewrite(folder, lambda _: lines)
    task = task_in(folder)
    task.splits()
    assert task.objectives[0].criterion.classes == tuple(sorted(names, key=float))


def test_reference_losses_are_counted_without_reading_an_image(folder, monkeypatch):
    task = task_in(folder)
    task.splits()
    monkeypatch.setattr(View, "tensor", lambda *_: pytest.fail("an image was read"))
    assert task.initial_losses(task.splits()) == pytest.approx({"species": math.log(3), "weight": 1.0}, abs=1e-5)
    entropy = -(6 * math.log(6 / 19) + 7 * math.log(7 / 19) + 6 * math.log(6 / 19)) / 19
    assert task.prior_losses(task.splits()) == pytest.approx({"species": entropy, "weight": 1.0}, abs=1e-5)


def test_labels_cannot_be_asked_for_before_the_table_is_read(folder):
    with pytest.raises(TypeError, match="splits"):
        task_in(folder).prior_losses()


def test_without_a_split_column_one_is_drawn_from_the_seed(folder):
    rewrite(folder, lambda lines: [",".join(line.split(",")[i] for i in (0, 2, 3)) for line in lines])
    first, again, other = (task_in(folder, split_seed=seed).splits() for seed in (0, 0, 1))
    assert [len(part) for part in first] == [27, 7, 6]
    assert len({path for part in first for path in part.paths}) == 40
    assert first.val.paths == again.val.paths
    assert first.val.paths != other.val.paths


def test_a_line_more_moves_no_image_to_another_part(folder):
    rewrite(folder, lambda lines: [",".join(line.split(",")[i] for i in (0, 2, 3)) for line in lines])
    before = task_in(folder).splits()
    draw(folder / "photos/new.png")
    absolute = folder / "photos/9.png"
    rewrite(folder, lambda lines: [lines[0], "./photos/new.png,red,7", *lines[1:9], *reversed(lines[9:])])
    rewrite(
        folder,
        lambda lines: [line.replace("photos/9.png", str(absolute)).replace("photos/8", "photos\\8") for line in lines],
    )
    after = task_in(folder).splits()
    for part, grown in zip(before, after, strict=True):
        assert set(part.paths) == set(grown.paths) - {str(folder / "photos/new.png")}


def test_groups_stay_together_and_another_table_needs_none(folder):
    rewrite(
        folder,
        lambda lines: [
            "path,animal,species,weight",
            *(line.replace("train", f"a{i % 9}") for i, line in enumerate(lines[1:])),
        ],
    )
    rewrite(folder, lambda lines: [line.replace("val", "v").replace("test", "t") for line in lines])
    task = task_in(folder, split="group", split_by="Animal")
    groups = [
        {
            line.split(",")[1]
            for line in (folder / "labels.csv").read_text().splitlines()[1:]
            if line.split(",")[0] in "".join(part.paths)
        }
        for part in task.splits()
    ]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert "split_by" not in task.splits().notes[-1]
    assert "drawn (task.split=group by 'Animal', task.split_seed=0)" in task.splits().notes[-1]
    rewrite(folder, lambda lines: [",".join(line.split(",")[i] for i in (0, 2, 3)) for line in lines])
    assert len(task.labelled(folder / "labels.csv").test) == 40


def test_the_split_of_earlier_versions_is_drawn_by_position(folder):
    rewrite(folder, lambda lines: [",".join(line.split(",")[i] for i in (0, 2, 3)) for line in lines])
    parts = [
        [int(path.split("/")[-1][:-4]) for path in part.paths] for part in task_in(folder, split="position").splits()
    ]
    assert [len(part) for part in parts] == [28, 6, 6]
    assert parts[1:] == [[4, 10, 15, 20, 22, 25], [11, 18, 27, 28, 29, 35]]


def test_what_is_in_the_table_is_said(folder):
    rewrite(
        folder,
        lambda lines: [lines[0], lines[1].replace(",,", ",NA,"), *lines[2:-1], lines[-1].replace("blue", "grey")],
    )
    rewrite(
        folder,
        lambda lines: [lines[0], lines[1], lines[2].replace("green", "grey").replace("train", "val"), *lines[3:]],
    )
    assert task_in(folder).splits().notes == (
        "species: blue 12, green 12, grey 2, red 13; missing: 1 'NA'",
        "species: no training data for grey",
        "weight: 11 to 49, mean 30; 8 missing",
        "split: 19 train, 11 val, 10 test; from the column 'split'",
    )


def test_tables_from_a_spreadsheet_are_read(folder):
    text = (
        (folder / "labels.csv")
        .read_text()
        .replace(",", ";")
        .replace("train", " Train ")
        .replace("path;split", "Path;SPLIT")
    )
    (folder / "labels.csv").write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert len(task_in(folder).splits().train) == 20


def test_column_names_become_keys_of_modules_and_results(folder):
    rewrite(folder, lambda lines: ["path,split,type,weight in kg/m.", *lines[1:]])
    task = task_in(folder, ["type"], ["weight in kg/m."])
    task.splits()
    names = [objective.name for objective in task.objectives]
    assert names == ["type_", "weight_in_kg_m_"]
    torch.nn.ModuleDict({name: torch.nn.Identity() for name in names})


def test_images_may_lie_elsewhere(folder):
    (folder / "photos").rename(folder / "elsewhere")
    rewrite(folder, lambda lines: [line.replace("photos/", "") for line in lines])
    assert len(task_in(folder, folder=str(folder / "elsewhere")).splits().train) == 20


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_a_sample_is_a_standardised_square(folder):
    sample = task_in(folder).splits().val[0]
    assert isinstance(sample, Batch)
    (image,) = sample.inputs
    assert image.shape == (3, 8, 8)
    assert image.dtype == torch.float32
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    restored = image * std[:, None, None] + mean[:, None, None]
    assert restored.min() >= -1e-6
    assert 190 / 255 < restored[0].max() < 1  # image 20 is red


def test_crop_keeps_the_shape_of_things_and_stretch_keeps_all_of_them(tmp_path):
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert View(10, "crop").pixels(tmp_path / "wide.png").min() == 255
    stretched = View(9, "stretch").pixels(tmp_path / "wide.png")[4, :, 0]
    assert stretched[0] == stretched[-1] == 0
    assert stretched[4] == 255


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    upright = View(16).pixels(tmp_path / "turned.jpg")
    assert upright[:, 12].min() > 200
    assert upright[:, 4].max() < 50


def test_a_large_photograph_looks_the_same_however_it_is_decoded(tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 255, 800).astype(np.uint8)[:, None], (600, 800, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "a.png")
    jpeg, png = (View(32).pixels(tmp_path / f"a.{kind}").astype(int) for kind in ("jpg", "png"))
    assert abs(jpeg - png).max() <= 4


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA", "CMYK"])
def test_every_kind_of_eight_bit_image_becomes_rgb(tmp_path, mode):
    Image.new("RGB", (12, 12), (255, 255, 255)).convert(mode).save(tmp_path / f"a.{'jpg' if mode == 'CMYK' else 'png'}")
    (path,) = tmp_path.iterdir()
    pixels = View(8).pixels(path)
    assert pixels.shape == (8, 8, 3)
    assert pixels.min() > 250


def test_augmentation_follows_from_seed_epoch_and_index(folder):
    train, val, _ = task_in(folder, crop=0.3).splits()

    def images(seed, epoch):
        train.set_epoch(seed, epoch)
        return torch.stack([train[i].inputs[0] for i in range(20)])

    first = images(0, 0)
    assert torch.equal(first, images(0, 0))
    for other in (images(0, 1), images(1, 0)):
        assert (first != other).any((1, 2, 3)).sum() > 15  # some crops of a picture this small are the same
    assert not torch.equal(first[3] - first[3].mean(), first[6] - first[6].mean())  # the same picture, drawn apart
    assert torch.equal(val[0].inputs[0], val[0].inputs[0])


def test_training_images_are_mirrored_as_often_as_asked(folder):
    plain, always = (task_in(folder, flip=flip, crop=1.0).splits() for flip in (0.0, 1.0))
    for i in range(3):
        assert torch.equal(always.train[i].inputs[0], plain.train[i].inputs[0].flip(-1))
        assert torch.equal(always.val[i].inputs[0], plain.val[i].inputs[0])
    half = task_in(folder, flip=0.5, crop=1.0).splits().train
    flipped = 0
    for epoch in range(10):
        half.set_epoch(0, epoch)
        flipped += sum(not torch.equal(half[i].inputs[0], plain.train[i].inputs[0]) for i in range(20))
    assert 75 <= flipped <= 125


def test_workers_change_nothing(folder):
    train = task_in(folder).splits().train
    alone, helped = (list(mozoo.data.training_batches(train, 6, 0, 1, 0, CPU, workers)) for workers in (0, 2))
    assert len(alone) == 3
    for a, b in zip(alone, helped, strict=True):
        assert torch.equal(a.inputs[0], b.inputs[0])
        assert a.inputs[0].shape == (6, 3, 8, 8)
        assert torch.equal(a.targets["species"], b.targets["species"])
        assert a.targets["weight"].shape == (6, 1)


def test_an_epoch_goes_on_where_it_stopped(folder):
    train = task_in(folder).splits().train
    whole = list(mozoo.data.training_batches(train, 6, 0, 1, 0, CPU, 0))
    rest = list(mozoo.data.training_batches(task_in(folder).splits().train, 6, 0, 1, 2, CPU, 0))
    assert torch.equal(whole[2].inputs[0], rest[0].inputs[0])


def test_splits_can_be_sent_to_another_process(folder):
    train = task_in(folder).splits().train
    train.set_epoch(3, 4)
    before = train[1].inputs[0]
    assert torch.equal(pickle.loads(pickle.dumps(train))[1].inputs[0], before)


def test_report_shows_images_with_predictions(folder):
    task = task_in(folder)

    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return {"species": torch.tensor([[0.0, 1, 0]]).expand(len(x), 3), "weight": self.weight.expand(len(x), 1)}

    with torch.no_grad():
        ((caption, figure),) = task.pictures(Constant(), task.splits().test).items()
    assert "true label" in caption
    titles = [axes.get_title("left") for axes in figure.axes]
    assert len(titles) == 10 + 2  # two places stay empty
    assert titles[1] == "species: green (green)\nweight: 20 (41)"
    red = [axes.get_title("left") for axes in figure.axes if axes._left_title.get_color() == "#dc2626"]
    assert red == [title for title in titles if re.match(r"✗ species: green \((blue|red)\)", title)] != []
    assert titles[0].endswith("(unknown)")


def test_one_command_leads_from_a_folder_to_a_report(folder):
    overrides = [
        *(
            "model=shared_trunk_lenet",
            "task=image_table",
            f"task.csv={folder}/labels.csv",
            "task.classification=[species]",
        ),
        *(
            "task.regression=[weight]",
            "task.image_size=36",
            "trainer.epochs=6",
            "trainer.batch_size=5",
            "optimizer.lr=0.003",
        ),
        *("trainer.device=cpu", "trainer.num_threads=1", f"run_dir={folder}/run", "logger.tensorboard=false"),
    ]
    summary = train.run(mozoo.compose(overrides))
    assert summary["metrics"]["test/species/accuracy"] > 0.6  # one colour for each species
    assert "Images of the test split" in (folder / "run/report.html").read_text()


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda rows: ["file" + rows[0][4:], *rows[1:]], "has no column 'path'; rename the one"),
        (lambda rows: [rows[0].replace("species", "specie"), *rows[1:]], "no column 'species'; did you mean specie"),
        (lambda rows: [rows[0].replace("species", "weight"), *rows[1:]], "has two columns 'weight'"),
        (lambda rows: [*rows[:4], rows[4].replace("13", "heavy"), *rows[5:]], "line 5: 'heavy' is no weight"),
        (lambda rows: [*rows[:4], rows[4].replace("13", "1_3"), *rows[5:]], "line 5: '1_3' is no weight"),
        (lambda rows: [*rows[:4], rows[4].replace("13", "inf"), *rows[5:]], "line 5: 'inf' is no weight"),
        (lambda rows: [*rows[:4], rows[4] + ",5", *rows[5:]], "line 5: 5 cells here and 4 in the header"),
        (lambda rows: [*rows[:4], "photos/3.png", *rows[5:]], "line 5: 1 cell here and 4 in the header"),
        (lambda rows: [*rows[:4], rows[3], *rows[5:]], "line 5: photos/2.png is on line 4 already"),
        (lambda rows: [*rows[:4], rows[4].replace("photos/3.png", ""), *rows[5:]], "line 5: the path is empty"),
        (lambda rows: [*rows[:4], rows[4].replace("3.png", "x.png"), *rows[5:]], "line 5: there is no image"),
        (lambda rows: [*rows[:4], rows[4].replace("train", "training"), *rows[5:]], "split must be train, val or test"),
        (lambda rows: [row.replace("val", "train") for row in rows], "no rows in the split 'val'; write it"),
        (
            lambda rows: [row.replace("green", "red").replace("blue", "red") for row in rows],
            "has species red, so there",
        ),
        (lambda rows: [rows[0], *(row.rpartition(",")[0] + ",7" for row in rows[1:])], "has weight 7, so there"),
        (
            lambda rows: [*rows[:21], *(row.rpartition(",")[0] + "," for row in rows[21:31]), *rows[31:]],
            "0 labels of 'weight' in the split 'val'",
        ),
        (
            lambda rows: [
                rows[0],
                *(r.replace("green", f"g{i}").replace("red", f"r{i}") for i, r in enumerate(rows[1:])),
            ],
            "fewer than two images for each",
        ),
        (
            lambda rows: [*rows[:4], "./" + rows[3], *rows[5:]],
            "./photos/2.png is the file photos/2.png, which is on line 4",
        ),
        (
            lambda rows: [*rows[:4], rows[3].replace("/", "\\"), *rows[5:]],
            "is the file photos/2.png, which is on line 4",
        ),
        (
            lambda rows: [*rows[:4], rows[4].replace("photos/", "photos/._"), *rows[5:]],
            "line 5: photos/._3.png has attr",
        ),
        (
            lambda rows: [*rows[:4], rows[4].replace("blue", "Blue"), *rows[5:]],
            "line 5: species is 'Blue' (1 rows) here",
        ),
        (lambda rows: rows[:1], "has no lines after the header"),
        (lambda rows: [], "has no column 'path'"),
    ],
)
def test_a_mistake_in_the_table_is_named_with_its_line_and_its_remedy(folder, damage, message):
    rewrite(folder, damage)
    with pytest.raises(DataError, match=r"labels\.csv") as caught:
        task_in(folder).splits()
    assert message in str(caught.value)


def test_too_few_images_to_split(folder):
    rewrite(folder, lambda lines: ["path,species,weight", "photos/1.png,red,1", "photos/2.png,blue,2"])
    with pytest.raises(DataError, match="2 rows are too few to split"):
        task_in(folder).splits()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classification": (), "regression": ()}, r"say which columns to learn.*has species, weight"),
        ({"csv": None}, r"say which table to read: task\.csv="),
        ({"csv": "nowhere/labels.csv"}, r"there is no file nowhere/labels\.csv"),
    ],
)
def test_what_is_missing_from_the_command_is_said(folder, options, message):
    arguments = {"csv": str(folder / "labels.csv"), "classification": ("species",), **options}
    with pytest.raises(DataError, match=message):
        ImageTable(**arguments).splits()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "at least 1"),
        ({"fit": "squeeze"}, "crop or stretch"),
        ({"crop": 0.0}, r"crop in \(0, 1\]"),
        ({"flip": 1.5}, r"flip must be in \[0, 1\]"),
        ({"val_share": 0.6, "test_share": 0.4}, "leave some for training"),
        ({"regression": ["species"]}, "the column 'species' is named twice"),
        ({"regression": ["a b", "a-b"]}, "'a b' and 'a-b' would be two objectives of one name"),
        ({"regression": ["Path"]}, "cannot be label columns"),
        ({"split": "groups"}, "random, stratified, group, time or position"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageTable(**{"csv": "labels.csv", "classification": ["species"], **options})


def test_a_file_that_is_no_image_is_found_before_training(folder):
    (folder / "photos/7.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"line 9: cannot read image .*7\.png"):
        task_in(folder).splits()


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_truncated_image_is_found_before_training(folder, kind):
    path = folder / f"photos/big.{kind}"
    draw(path, size=(200, 200))
    rewrite(folder, lambda lines: [lines[0], lines[1].replace("0.png", f"big.{kind}"), *lines[2:]])
    task_in(folder).splits()
    path.write_bytes(path.read_bytes() + b"something of the camera's" * 10)
    task_in(folder).splits()
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(DataError, match=rf"line 2: cannot read image .*big\.{kind}"):
        task_in(folder).splits()


def test_an_image_that_is_damaged_later_is_named(folder):
    train = task_in(folder).splits().train
    (folder / "photos/7.png").write_bytes((folder / "photos/7.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"cannot read image .*7\.png .*take it out of the list"):
        train[7]
    (folder / "photos/7.png").unlink()
    with pytest.raises(DataError, match=r"there is no image .*7\.png; was it moved"):
        train[7]


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="8 bits"):
        View(8).pixels(tmp_path / "a.png")


def test_criteria_are_chosen_by_column_and_kept(folder):
    criteria = {"species": {"name": "focal", "weights": "balanced"}, "weight": "poisson"}
    task = task_in(folder, criteria=criteria)
    splits = task.splits()
    species, weight = (objective.criterion for objective in task.objectives)
    assert (species.name, weight.name) == ("focal", "poisson")
    assert len(species.weights) == 3
    known = [10 + i for i in range(20) if i % 5]
    assert weight.mean == pytest.approx(np.mean(known))
    assert splits.train.targets["weight"][1].item() == 11  # counts are not standardised
    other = task_in(folder, criteria=criteria)
    other.load_state_dict(json.loads(json.dumps(task.state_dict())))
    assert other.decode({"weight": torch.zeros(1, 1)}).cells["weight"] == pytest.approx([np.mean(known)])


def test_a_criterion_for_other_labels_is_refused(folder):
    with pytest.raises(
        ValueError, match=r"task\.criteria\.species: huber is for number or count, and these labels are classes"
    ):
        task_in(folder, criteria={"species": "huber"})
