"""scripts/predict.py on real runs: inputs as in training, answers in words and units, without the training data."""

import csv
import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from rich.console import Console

import zoo
from mozoo import tools
from mozoo.inference import row_tables, write_samples
from mozoo.model_card import write_model_card
from mozoo.prediction import load_predictor, model_config
from scripts import predict
from tasks import DataError, Task, compressed_fashion, create_task, multi_fashion, two_view_fashion
from tests.tasks import test_celeba, test_office
from tests.tiny_runs import KINDS, ROOT, finished
from tests.zoo.tiny import build, tiny


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def run_of(tmp_path_factory):
    return lambda kind: finished(kind, tmp_path_factory)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def summary(run):
    return json.loads((run / "summary.json").read_text())


def told(capsys, *words):
    """The message of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        predict.main(words)
    assert ended.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_rows_of_a_table_are_predicted_as_well_as_the_test_split_was(run_of, tmp_path):
    run = run_of("table")
    stones = run.parent / "data/stones.csv"
    predict.main([f"run={run}", f"input={stones}", f"output={tmp_path}"])
    found = rows(tmp_path / "predictions.csv")
    assert list(found[0]) == ["row", "cut", "cut_probability", "price"]
    assert [int(row["row"]) for row in found] == list(range(1, len(rows(stones)) + 1))

    task = create_task("diamonds", csv=str(stones))
    test = task.splits().test
    places = {tuple(features): i for i, features in enumerate(task.preprocess(stones).inputs[0].tolist())}
    mine = [places[tuple(features)] for features in test.inputs[0].tolist()]  # bit-equal
    truth = rows(stones)
    error = np.mean([abs(float(found[i]["price"]) - float(truth[i]["price"])) for i in mine])
    hits = np.mean([found[i]["cut"] == truth[i]["cut"] for i in mine])
    assert summary(run)["metrics"]["test/price/mae_usd"] == pytest.approx(error, rel=1e-4)
    assert summary(run)["metrics"]["test/cut/accuracy"] == pytest.approx(hits, abs=1e-6)


def test_the_command_prints_rows_and_needs_neither_labels_nor_training_data(run_of, tmp_path):
    run = run_of("table")
    stones = tmp_path / "three.csv"
    columns = [name for name in rows(run.parent / "data/stones.csv")[0] if name not in ("cut", "price")]
    with stones.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows(run.parent / "data/stones.csv")[:3])
    copy = shutil.copytree(run, tmp_path / "run")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/predict.py"), "run=run", "input=three.csv", "device=cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = rows(copy / "predictions/three/predictions.csv")
    assert len(found) == 3
    assert all(row["cut"] in done.stdout for row in found)


def spoil(stones, old, new):
    text = stones.read_text()
    assert old in text
    stones.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("carat", "weight", "has no column 'carat'; it needs carat, depth,"),
        ('"E"', '"Z"', "'Z' is no color; choose from D, E, F"),
        ("61.5", "wide", "'wide' is no depth"),
        ('\n0.23,"Ideal","E","SI2",61.5,55,326,3.95,3.98,2.43', "", "has no lines after the header"),
    ],
)
def test_mistakes_in_a_table_are_named(run_of, tmp_path, capsys, old, new, message):
    stones = tmp_path / "stones.csv"
    lines = (run_of("table").parent / "data/stones.csv").read_text().splitlines()
    stones.write_text(lines[0] + '\n0.23,"Ideal","E","SI2",61.5,55,326,3.95,3.98,2.43\n')
    spoil(stones, old, new)
    error = told(capsys, f"run={run_of('table')}", f"input={stones}", f"output={tmp_path / 'out'}")
    assert str(stones) in error
    assert message in error


# ---- images ----------------------------------------------------------------------------------------------------------


def test_a_folder_of_images_is_predicted_as_well_as_the_test_split_was(run_of, tmp_path, monkeypatch):
    run = run_of("images")
    monkeypatch.setattr(Task, "splits", None)  # nothing of the training data is asked for
    photos = run.parent / "data/test"
    predict.main([f"run={run}", f"input={photos}", f"output={tmp_path}"])
    found = {row["file"]: row for row in rows(tmp_path / "predictions.csv")}
    truth = {
        row["path"].removeprefix("test/"): row for row in rows(photos.parent / "labels.csv") if "test/" in row["path"]
    }
    assert found.keys() == truth.keys()
    error = np.mean([abs(float(found[name]["weight"]) - float(truth[name]["weight"])) for name in truth])
    hits = np.mean([found[name]["species"] == truth[name]["species"] for name in truth])
    assert summary(run)["metrics"]["test/weight/mae"] == pytest.approx(error, rel=1e-4)
    assert summary(run)["metrics"]["test/species/accuracy"] == pytest.approx(hits, abs=1e-6)
    assert 900 < float(found["20.png"]["weight"]) < 2300  # in the unit of the column
    assert {path.name for path in tmp_path.iterdir()} == {".predictions", "predictions.csv"}


@pytest.mark.parametrize("made", [test_celeba, test_office], ids=["celeba", "office"])
def test_a_file_is_read_like_those_of_the_test_split(made, tmp_path):
    if made is test_office:
        task = create_task("office", image_size=8)
        test_office.build(tmp_path)
        test = task.splits(tmp_path).test
        paths, sample = [part.paths[1] for part in test.parts.values()], test[1]
    else:
        task = create_task("celeba", image_size=8)
        test_celeba.build(tmp_path)
        test = task.splits(tmp_path).test
        paths, sample = [test.paths[1]], test[1]
    for number, path in enumerate(paths):
        inputs = task.preprocess(path).inputs
        assert len(inputs) == len(sample.inputs)
        torch.testing.assert_close(inputs[number][0], sample.inputs[number], rtol=0, atol=0)


def test_office_says_class_names_for_each_domain_without_its_images(tmp_path):
    task = create_task("office", image_size=8)
    task.splits(test_office.build(tmp_path))
    other = create_task("office", image_size=8)
    other.load_state_dict(json.loads(json.dumps(task.state_dict())))
    outputs = {name: torch.eye(31)[[1]] for name in ("amazon", "dslr", "webcam")}
    assert other.decode(outputs).cells["dslr"] == ["paper_notebook"]


# ---- garments --------------------------------------------------------------------------------------------------------


def garments(folder, download):
    random = torch.Generator().manual_seed(0)
    counts = (30, 5, 5)
    return [
        (torch.randint(0, 256, (n, 28, 28), generator=random, dtype=torch.uint8), torch.arange(n) % 10) for n in counts
    ]


@pytest.mark.parametrize("module", [compressed_fashion, multi_fashion, two_view_fashion], ids=lambda m: m.__name__[6:])
def test_a_picture_of_a_garment_is_prepared_as_in_training(module, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fashion_splits", garments)
    name = module.__name__.removeprefix("tasks.")
    task, other = create_task(name), create_task(name)
    test = task.splits(tmp_path).test
    pixels = garments(None, False)[2][0][3] if name != "multi_fashion" else test.inputs[0][3, 0]
    Image.fromarray(pixels.numpy()).save(tmp_path / "garment.png")
    other.load_state_dict(json.loads(json.dumps(task.state_dict())))
    inputs = other.preprocess(tmp_path / "garment.png").batch(torch.tensor([0])).inputs
    torch.testing.assert_close(inputs, test.batch(torch.tensor([3])).inputs)
    Image.fromarray(np.zeros((28, 28, 3), np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(DataError, match=r"colour\.png has 3 channels \(RGB\), and the model takes pictures of 1 \(L"):
        other.preprocess(tmp_path / "colour.png")
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "other.png")
    with pytest.raises(DataError, match=r"other\.png is 30 x 20 pixels, and the model takes (28 x 28|36 x 36)"):
        other.preprocess(tmp_path / "other.png")


def test_a_reconstruction_is_a_grey_map():
    image = torch.linspace(-0.1, 1.1, 1024).view(1, 1, 32, 32)
    found = create_task("compressed_fashion").decode({"image": image, "class": torch.eye(10)[[8]]})
    assert found.cells["class"] == ["Bag"]
    assert (found.maps["image"].shape, found.maps["image"].min(), found.maps["image"].max()) == ((1, 32, 32), 0, 1)
    assert (found.pictures["image"][0, 0, 0], found.pictures["image"][0, -1, -1]) == (0, 255)


# ---- maps ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def room(run_of):
    (image,) = (run_of("maps").parent / "data").glob("rooms-*/test/image/1.npy")
    return image


def test_maps_are_what_the_model_says_of_the_picture(run_of, room, tmp_path):
    run = run_of("maps")
    predict.main([f"run={run}", f"input={room}", f"output={tmp_path}"])
    model = load_predictor(run, "cpu").model
    with torch.no_grad():
        outputs = model(torch.from_numpy(np.load(room)).float().permute(2, 0, 1)[None])
    labels, depth, normals = (np.load(tmp_path / f"1-{name}.npy") for name in ("segmentation", "depth", "normals"))
    np.testing.assert_array_equal(labels, outputs["segmentation"][0].argmax(0))
    np.testing.assert_allclose(depth, outputs["depth"][0, 0], rtol=1e-6)  # metres
    np.testing.assert_allclose(normals, outputs["normals"][0].permute(1, 2, 0), rtol=1e-6)
    legend = rows(tmp_path / "segmentation.csv")
    assert [row["class"] for row in legend][:3] == ["bed", "books", "ceiling"]
    picture = np.array(Image.open(tmp_path / "1-segmentation.png"))
    assert picture.shape == (24, 32, 3)
    for y, x in ((0, 0), (23, 31)):
        assert "#" + picture[y, x].tobytes().hex() == legend[labels[y, x]]["colour"]
    shown = np.array(Image.open(tmp_path / "1-normals.png"))
    np.testing.assert_allclose(shown / 255, normals / 2 + 0.5, atol=0.01)
    assert not (tmp_path / "predictions.csv").exists()


@pytest.mark.parametrize("kind", ["table", "maps"])
def test_predictions_replace_earlier_ones_without_becoming_inputs(run_of, kind, tmp_path, monkeypatch):
    shutil.copytree(run_of(kind), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    if kind == "maps":
        Image.new("RGB", (32, 24), "red").save("a.png")
    else:
        shutil.copy(run_of(kind).parent / "data/stones.csv", "a.csv")
    for output in ([], ["output=found"]):
        seen = []
        for _ in range(2):
            predict.main(["run=run", f"input={'.' if kind == 'maps' else 'a.csv'}", *output])
            folder = tmp_path / ("found" if output else f"run/predictions/{tmp_path.name if kind == 'maps' else 'a'}")
            seen.append(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name[0] != "."))
        assert seen[0] == seen[1]
        if kind == "maps":
            assert "a-depth.png" in seen[0]
            shutil.rmtree(folder)


def test_a_photograph_of_any_size_is_seen_in_that_of_training_and_predicted_in_its_own(run_of, room, tmp_path):
    pixels = (np.load(room) * 255).round().astype(np.uint8)
    Image.fromarray(np.kron(pixels, np.ones((2, 2, 1), np.uint8))).save(tmp_path / "large.png")
    Image.fromarray(pixels).save(tmp_path / "small.png")
    words = [f"run={run_of('maps')}", f"input={tmp_path}"]
    predict.main([*words, f"output={tmp_path / 'out'}"])
    predict.main([*words, f"output={tmp_path / 'model'}", "size=model"])
    for name in ("segmentation", "depth", "normals"):
        large, small = (np.load(tmp_path / f"model/{stem}-{name}.npy") for stem in ("large", "small"))
        assert large.shape[:2] == (24, 32)
        np.testing.assert_allclose(large, small, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(small, np.load(tmp_path / f"out/small-{name}.npy"))
        assert np.load(tmp_path / f"out/large-{name}.npy").shape[:2] == (48, 64)
    large, small = (np.load(tmp_path / f"out/{stem}-segmentation.npy") for stem in ("large", "small"))
    assert (large == np.kron(small, np.ones((2, 2), np.uint8))).mean() > 0.8


def test_a_size_that_there_is_not_is_refused(run_of, tmp_path, capsys):
    Image.new("RGB", (32, 24)).save(tmp_path / "picture.png")
    run = run_of("maps")
    capsys.readouterr()
    error = told(capsys, f"run={run}", f"input={tmp_path}", f"output={tmp_path / 'out'}", "size=large")
    assert "size must be picture or model, got 'large'" in error


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGBA", 4), ("P", 1)])
def test_a_picture_with_other_channels_is_refused(run_of, tmp_path, capsys, mode, channels):
    Image.new(mode, (32, 24)).save(tmp_path / "picture.png")
    error = told(capsys, f"run={run_of('maps')}", f"input={tmp_path / 'picture.png'}", f"output={tmp_path / 'out'}")
    assert f"picture.png has {channels} channels ({mode}), and the model takes pictures of 3 (RGB" in error


# ---- samples ---------------------------------------------------------------------------------------------------------


def test_a_gan_makes_the_samples_that_its_seed_decides(run_of, tmp_path):
    run = run_of("points")
    for name, *words in (("a",), ("b", "seed=0", "samples=64"), ("c", "seed=1")):
        predict.main([f"run={run}", f"output={tmp_path / name}", *words])
    first, again, other = (np.load(tmp_path / name / "samples.npy") for name in "abc")
    assert first.shape == (64, 2)
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    assert [row["class"] for row in rows(tmp_path / "a/samples.csv")] == [str(i % 8) for i in range(64)]
    assert Image.open(tmp_path / "a/samples.png").size > (500, 500)


def test_images_of_a_gan_are_a_grid_with_a_column_for_each_class(tmp_path):
    samples = torch.linspace(-1, 1, 6)[:, None, None, None].expand(6, 1, 8, 8)
    write_samples(tmp_path, samples, ["shoe", "bag", "coat"] * 2)
    found = np.load(tmp_path / "samples.npy")
    assert (found.shape, found.min(), found.max()) == ((6, 8, 8), 0, 1)
    grid = np.array(Image.open(tmp_path / "samples.png"))
    assert grid.shape == (2 * 10 + 2, 3 * 10 + 2, 3)
    assert [round(grid[row, column, 0] / 51) for row in (5, 15) for column in (5, 15, 25)] == [0, 1, 2, 3, 4, 5]


# ---- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "run must be given"),
        (["run=nowhere"], "there is no folder nowhere"),
        (["run={points}", "imput=x"], "there is no key 'imput'; did you mean input?"),
        (["run={points}", "samples=few"], "samples: Value 'few'"),
        (["run={points}", "samples=0"], "samples must be at least 1"),
        (["run={points}", "samples="], "samples needs a value"),
        (["run={points}", "input=README.md"], "generates samples and cannot read README.md; leave the input out"),
        (["run={points}", "device=tpu"], "device must be"),
        (["run={table}"], "input must be given"),
        (["run={table}", "input=nothing.csv"], "there is no nothing.csv"),
        (["run={table}", "input=nothing.csv", "samples=3"], "samples and seed are for a model that generates"),
        (["run={table}", "input=configs"], "there are no pictures in configs"),
        (["run={images}", "input=README.md"], "cannot read image README.md"),
        (["run={table}/.."], "is no run folder; did you mean "),
    ],
)
def test_what_cannot_be_done_is_one_message(run_of, tmp_path, capsys, words, message):
    places = {
        kind: run_of(kind) for kind in ("points", "table", "images") if f"{{{kind}}}" in "".join([*words, message])
    }
    capsys.readouterr()
    output = [f"output={tmp_path / 'out'}"] if words else []
    resolved = [word.format(**places) for word in words]
    assert message in told(capsys, *resolved, *output)


def test_a_run_without_weights_says_how_to_go_on(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    assert (
        f"has no weights in best/ yet, as no epoch is finished; go on with: python train.py resume={tmp_path}"
        in told(capsys, f"run={tmp_path}")
    )


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damaged_weights_are_named(run_of, tmp_path, capsys, name):
    best = shutil.copytree(run_of("points") / "best", tmp_path / "best")
    (best / name).write_bytes((best / name).read_bytes()[:40])
    assert f"{best} cannot be loaded" in told(capsys, f"run={best}")


def test_a_folder_that_cannot_be_written_is_named(run_of, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "output: cannot write to" in told(capsys, f"run={run_of('points')}", f"output={tmp_path / 'file/below'}")


def test_pictures_whose_maps_would_overwrite_each_other_are_refused(run_of, tmp_path, capsys):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (32, 24)).save(tmp_path / name)
    words = f"input={tmp_path}", f"output={tmp_path / 'out'}"
    assert "would be written to the same files" in told(capsys, f"run={run_of('maps')}", *words)
    assert not (tmp_path / "out").exists()
    predict.main([f"run={run_of('images')}", *words])  # one table
    assert {row["file"] for row in rows(tmp_path / "out/predictions.csv")} == {"a.png", "a.jpg"}


def test_pictures_that_cannot_be_read_are_listed_and_the_others_predicted(run_of, tmp_path, capsys):
    for name in ("a.png", "b.gif", "c.ppm", "d.tiff", "below/e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 12), (200, 0, 0)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("path\n")
    (tmp_path / "._a.png").write_bytes(b"attributes of macOS")
    with pytest.raises(SystemExit) as ended:
        predict.main([f"run={run_of('images')}", f"input={tmp_path}", f"output={tmp_path / 'out'}"])
    assert ended.value.code == 1
    out, error = capsys.readouterr()
    found = {row["file"] for row in rows(tmp_path / "out/predictions.csv")}
    assert found == {"a.png", "b.gif", "c.ppm", "d.tiff", "below/e.jpg"}
    assert "left out, as they are no pictures: labels.csv\n" in out
    assert error.startswith("error: 2 of 7 files have no prediction: cannot read image ")
    assert "broken.png" in error
    assert "empty.jpg" in error
    for path in (*tmp_path.glob("?.*"), tmp_path / "below/e.jpg"):
        path.unlink()
    assert "cannot read image" in told(
        capsys, f"run={run_of('images')}", f"input={tmp_path}", f"output={tmp_path / 'none'}"
    )
    assert not (tmp_path / "none").exists()


def test_a_table_given_to_a_model_of_pictures_and_the_reverse(run_of, tmp_path, capsys):
    (tmp_path / "stones.csv").write_text("carat\n1\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    message = told(capsys, f"run={run_of('images')}", f"input={tmp_path / 'stones.csv'}")
    assert "stones.csv (a table or a text, no picture; name a picture, or a folder of pictures)" in message
    assert "photo.png is a picture, no text" in told(
        capsys, f"run={run_of('table')}", f"input={tmp_path / 'photo.png'}"
    )


def test_help_shows_the_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        predict.main(["--help"])
    assert not ended.value.code
    assert "scripts/predict.py run=outputs/<run> input=photo.jpg" in capsys.readouterr().out


# ---- the folder for a hub --------------------------------------------------------------------------------------------


def test_the_folder_of_the_weights_is_all_it_takes(run_of, tmp_path):
    best = shutil.copytree(run_of("points") / "best", tmp_path / "downloaded")
    predict.main([f"run={best}", f"output={tmp_path / 'a'}"])
    predict.main([f"run={run_of('points')}", f"output={tmp_path / 'b'}"])
    np.testing.assert_array_equal(*(np.load(tmp_path / name / "samples.npy") for name in "ab"))


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_model_is_built_again_from_its_folder(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, inputs = build(name), tiny(name).inputs(2)
    config = SimpleNamespace(model={"name": name}, task={"name": "diamonds"}, imports=[])
    run = SimpleNamespace(config=config, arguments=tiny(name).arguments, model=model, task=create_task("diamonds"))
    tools.save_weights(tmp_path, model, model_config(run))
    other = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(dict(other.eval()(*inputs)), dict(model.eval()(*inputs)), rtol=0, atol=0)
    assert other.phases == model.phases
    monkeypatch.setattr(Task, "restrict", lambda self, names: self)
    loaded = load_predictor(tmp_path, "cpu").model
    torch.testing.assert_close(dict(loaded(*inputs)), dict(model(*inputs)), rtol=0, atol=0)
    assert loaded.phases == model.phases


def test_the_card_tells_the_results_and_its_example_runs(run_of, kind, tmp_path):
    run = run_of(kind)
    best = shutil.copytree(run / "best", tmp_path / "best")
    predictor = load_predictor(best, "cpu")
    (best / "README.md").unlink(missing_ok=True)
    card = ModelCard.load(write_model_card(best, summary(run), predictor.model, predictor.task))
    data = card.data.to_dict()
    assert data["library_name"] == "mozoo"
    assert {summary(run)["model"], summary(run)["task"], summary(run)["balancer"]} <= set(data["tags"])
    results = {f"test/{r.metric_name.replace(' ', '/')}": r.metric_value for r in card.data.eval_results}
    metrics = summary(run)["metrics"]
    assert results == {key: value for key, value in metrics.items() if not key.endswith("/loss") and value is not None}
    assert set(data["metrics"]) == {key.split("/")[2] for key in results}
    assert summary(run)["command"] in card.text
    assert re.findall(r"^## (.+)$", card.text, re.MULTILINE)[2:4] == ["Data", "Intended use"]
    assert "Licence" in card.text
    assert data.get("license") is None  # the weights are the user's to license
    (example,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    inputs = {"table": {"x": torch.randn(2, 21)}, "images": {"image": torch.randn(2, 3, 12, 12)}}
    names = {"maps": {"image": torch.rand(2, 3, 24, 32)}, "points": {}, **inputs}[kind]
    exec(example.replace("path/to/this/folder", str(best)), names)
    found = {"samples": names["samples"]} if kind == "points" else names["outputs"]
    assert all(values.isfinite().all() for values in found.values())


def test_a_run_leaves_a_card_beside_its_weights(run_of, kind):
    best = run_of(kind) / "best"
    assert {path.name for path in best.iterdir()} == {"README.md", "config.json", "model.safetensors"}


def test_the_example_of_the_page_runs(run_of):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/using.md").read_text(), re.DOTALL)
    run, names = run_of("table"), {}
    exec(code.replace("outputs/<run>", str(run)).replace("stones.csv", str(run.parent / "data/stones.csv")), names)
    assert len(names["prediction"].cells["price"]) == len(rows(run.parent / "data/stones.csv"))


def test_a_table_that_is_too_wide_is_printed_in_parts(capsys):
    names = ["mu", "alpha", "homo", "lumo", "r2", "zpve", "U0", "U", "H", "G", "cv"]
    found = [{"row": row, **{name: -1000.5 * row - k for k, name in enumerate(names)}} for row in (1, 2)]
    console = Console(width=60, soft_wrap=True)
    tables = row_tables(found, 60)
    for table in tables:
        console.print(table)
    printed = capsys.readouterr().out
    assert all(len(line) <= 60 for line in printed.splitlines())
    assert printed.count("row") == len(tables) > 1
    cells = re.findall(r"[\w.-]+", printed)
    assert [name for name in names if cells.count(name) != 1] == []
    assert [row[name] for row in found for name in names if f"{row[name]:.4g}" not in cells] == []
    (whole,) = row_tables(found, 200)
    assert len(whole.columns) == 12
    assert len(row_tables([{"file": "a long name " * 9, "cut": "Ideal"}], 60)) == 1  # what no part could hold
