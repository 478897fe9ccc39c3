"""Checks of all files of a set: what is remembered, and what is not."""

import os

import pytest

from tasks import DataError, file_checks
from tasks.file_checks import check_all


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
