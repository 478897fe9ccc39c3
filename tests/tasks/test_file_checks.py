"""Checks of all files of a set: what is remembered, and what is not."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks import DataError, create_task, file_checks
from tasks.cityscapes_files import _picture as read_label
from tasks.dense_task import DenseTask
from tasks.file_checks import check_all, check_regular, limit
from tasks.image_reading import check_image, check_images, read_photo, read_pixels
from tasks.map_files import load_npy
from tasks.map_formats import load_map
from tasks.table_files import read_table


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(file_checks, "MANY", 4)
    paths = [tmp_path / f"{i}.txt" for i in range(6)]
    for i, path in enumerate(paths):
        path.write_text(str(i))
    return paths


def checked(files, memory, recipe="sizes"):
    """Results, and the numbers of the files that were read."""
    read = []
    results = check_all(
        [[path] for path in files], lambda i: (read.append(i), files[i].stat().st_size)[1], memory, recipe
    )
    return results, sorted(read)


def test_results_are_remembered_until_a_file_or_the_recipe_changes(files, tmp_path):
    memory = tmp_path / "data" / ".checked"
    assert checked(files, memory) == ([1] * 6, [0, 1, 2, 3, 4, 5])
    assert checked(files, memory) == ([1] * 6, [])
    files[2].write_text("abc")
    assert checked(files, memory) == ([1, 1, 3, 1, 1, 1], [2])
    assert checked(files, memory, "other")[1] == [0, 1, 2, 3, 4, 5]


def test_a_file_of_the_same_size_and_time_is_read_again_if_it_was_written(files, tmp_path):
    checked(files, tmp_path / "memory")
    times = files[3].stat()
    files[3].write_text("x")
    os.utime(files[3], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert checked(files, tmp_path / "memory")[1] == [3]


def test_few_files_and_no_memory_leave_nothing_behind(files, tmp_path):
    checked(files[:3], tmp_path / "memory")
    checked(files, None)
    assert not (tmp_path / "memory").exists()


def test_a_memory_that_cannot_be_written_is_done_without(files, tmp_path):
    (tmp_path / "memory").write_text("a file")
    assert checked(files, tmp_path / "memory") == checked(files, tmp_path / "memory")


def test_the_first_error_in_order_ends_it(files, tmp_path):
    def check(index):
        if index in (1, 4):
            raise DataError(f"file {index}")
        return index

    with pytest.raises(DataError, match="file 1"):
        check_all([[path] for path in files], check, tmp_path / "memory", "x")
    assert not (tmp_path / "memory").exists()


READERS = {
    "check_image": check_image,
    "read_pixels": lambda path: read_pixels(path, 3),
    "read_photo": read_photo,
    "label": read_label,
    "npy": load_npy,
    "map": load_map,
    "picture": lambda path: DenseTask.read_image(None, path),
    "table": lambda path: read_table(path, "table"),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX systems")
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("ending", [".png", ".npy", ".csv"])
def test_no_reader_opens_a_pipe(tmp_path, name, ending):
    pipe = tmp_path / f"pipe{ending}"
    os.mkfifo(pipe)
    (tmp_path / f"link{ending}").symlink_to(pipe)
    for path in (pipe, tmp_path / f"link{ending}", tmp_path):
        with pytest.raises((DataError, OSError), match=r"is a pipe or a device|is a folder"):
            READERS[name](path)


def test_what_is_missing_is_said_by_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        check_regular(tmp_path / "nothing")


@pytest.mark.parametrize("read", ["check_image", "read_photo", "label", "map"])
def test_a_picture_beyond_the_limit_is_refused_and_the_limit_can_be_raised(tmp_path, monkeypatch, read):
    Image.new("L", (40, 30)).save(tmp_path / "a.png")
    monkeypatch.setenv("MOZOO_MAX_PIXELS", "1000")
    with pytest.raises((DataError, ValueError), match=r"40 x 30 pixels, more than 1,000; .*MOZOO_MAX_PIXELS=1200"):
        READERS[read](tmp_path / "a.png")
    monkeypatch.setenv("MOZOO_MAX_PIXELS", "1200")
    READERS[read](tmp_path / "a.png")
    monkeypatch.delenv("MOZOO_MAX_PIXELS")
    Image.new("1", (12000, 12000)).save(tmp_path / "a.png")
    with pytest.raises((DataError, ValueError), match="12000 x 12000 pixels, more than 100,000,000"):
        READERS[read](tmp_path / "a.png")


@pytest.mark.parametrize("value", ["x", "0", "-1", "nan"])
def test_a_limit_is_a_number(monkeypatch, value):
    monkeypatch.setenv("MOZOO_MAX_PIXELS", value)
    with pytest.raises(ValueError, match="MOZOO_MAX_PIXELS"):
        limit("MOZOO_MAX_PIXELS", 1.0)


@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_a_compressed_table_is_unpacked_up_to_a_limit(tmp_path, monkeypatch, ending):
    import gzip
    import lzma

    path = tmp_path / f"a.csv.{ending}"
    path.write_bytes({"gz": gzip, "xz": lzma}[ending].compress(b"a,b\n" + b"1,2\n" * 50_000))
    assert len(read_table(path, "table")) == 50_000
    monkeypatch.setenv("MOZOO_MAX_TABLE_GIB", "0.0001")
    with pytest.raises(DataError, match=r"unpacks to more than 0.0001 GiB; .*MOZOO_MAX_TABLE_GIB"):
        read_table(path, "table")


def test_a_remembered_result_that_nests_too_deeply_is_forgotten(files, tmp_path):
    checked(files, tmp_path / "memory")
    (memory,) = (tmp_path / "memory").iterdir()
    memory.write_text("[" * 100_000)
    assert checked(files, tmp_path / "memory")[1] == [0, 1, 2, 3, 4, 5]


def photos(folder, broken=()):
    lines = ["path,species"]
    for i in range(24):
        pixels = np.random.RandomState(i).randint(0, 255, (20, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
        lines.append(f"{i}.jpg,{'ab'[i % 2]}")
    for i in broken:
        content = (folder / f"{i}.jpg").read_bytes()
        start = content.index(b"\xff\xc4") + 5  # the first table of codes
        (folder / f"{i}.jpg").write_bytes(content[:start] + b"\xff" * 16 + content[start + 16 :])
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return {"csv": str(folder / "labels.csv"), "classification": ["species"], "image_size": 8}


def test_a_jpeg_that_breaks_when_decoded_is_found_before_the_training(tmp_path):
    options = photos(tmp_path, broken=(3, 7))
    assert (tmp_path / "3.jpg").read_bytes()[-2:] == b"\xff\xd9"
    with pytest.raises(
        DataError, match=r"line 5: cannot read image .*3\.jpg.* \(and 1 more that cannot be read\); .*skip"
    ):
        create_task("image_table", **options).splits(tmp_path)
    paths = [str(tmp_path / f"{i}.jpg") for i in range(10)]
    with pytest.raises(
        DataError, match=r"celeba: cannot read image .*3\.jpg.* \(and 1 more that cannot be read\); unpack"
    ):
        check_images("celeba", paths, tmp_path / "memory", "unpack it again")


def test_unreadable_images_are_skipped_and_counted_by_choice(tmp_path):
    whole = create_task("image_table", **photos(tmp_path)).splits(tmp_path)
    options = photos(tmp_path, broken=(3, 7))
    (tmp_path / "11.jpg").unlink()
    left = create_task("image_table", **options, unreadable="skip").splits(tmp_path)
    assert any("3 of 24 images left out, first: cannot read image" in note for note in left.notes)
    gone = {"3.jpg", "7.jpg", "11.jpg"}
    for before, after in zip(whole, left, strict=True):
        assert [Path(p).name for p in after.paths] == [Path(p).name for p in before.paths if Path(p).name not in gone]
