"""Tables of any program are read alike; what cannot be read is one message with the file, the line and the remedy."""

import gzip
import lzma
import os

import numpy as np
import pytest

from tasks import DataError
from tasks.table_files import TextTable, class_labels, missing_spellings, read_table

PLAIN = "path,kind,weight\na.png,lynx,1.5\nb.png,ocelot,20\n"
CELLS = {"path": ["a.png", "b.png"], "kind": ["lynx", "ocelot"], "weight": [1.5, 20.0]}


def read(tmp_path, content, name="labels.csv"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path, "task")


def content_of(table):
    return {"path": table.cells("path"), "kind": table.cells("kind"), "weight": table.numbers("weight").tolist()}


def semicolons(text):
    return text.replace(",", ";").replace(".5", ",5")


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.rstrip(),
        "\n" + PLAIN.replace("\n", "\n\n"),
        PLAIN.replace(",", " , ").replace("path", "\tpath"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", "|"),
        PLAIN.replace(",", "   "),
        PLAIN.replace("\n", ",,\n"),
        semicolons(PLAIN),
        semicolons(PLAIN).replace("\n", ";;\n") + ";;;;\n",
        "sep=;\r\n" + semicolons(PLAIN),
        '"sep=;"\n' + semicolons(PLAIN),
        "sep=#\n" + PLAIN.replace(",", "#"),
        PLAIN.replace("a.png", '"a.png"').replace("kind", '"kind"'),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-16-le"),
        PLAIN.encode("utf-16-be"),
        PLAIN.encode("utf-32"),
    ],
)
def test_a_table_is_the_same_from_any_program(tmp_path, content):
    assert content_of(read(tmp_path, content)) == CELLS


@pytest.mark.parametrize(("pack", "ending"), [(lzma.compress, ".xz"), (gzip.compress, ".gz")])
def test_packed_tables_are_read_and_truncated_ones_named(tmp_path, pack, ending):
    assert content_of(read(tmp_path, pack(PLAIN.encode()), "labels.csv" + ending)) == CELLS
    random = np.random.RandomState(0).bytes(5000).hex()
    with pytest.raises(DataError, match=r"labels\.csv\..z is damaged .*; copy or download it again"):
        read(tmp_path, pack((PLAIN + random).encode())[:-500], "labels.csv" + ending)


def test_letters_of_windows_are_read_and_said(tmp_path):
    table = read(tmp_path, "Größe;Name\n1,5;Bär\n2;Möwe\n".encode("cp1252"))
    assert table.cells("Name") == ["Bär", "Möwe"]
    assert table.find("größe") == "Größe"
    assert table.notes == ("read as Windows-1252 text",)
    assert read(tmp_path, "a,b\nä,\N{REPLACEMENT CHARACTER}\n").encoding == "utf-8"


def test_cells_may_hold_delimiters_and_line_breaks_in_quotes(tmp_path):
    table = read(tmp_path, '"a, in cm";b\n"1\n2";"x;y"\n"3, 4";z\n')
    assert table.names == ("a, in cm", "b")
    assert table.cells("a, in cm") == ["1\n2", "3, 4"]
    assert table.cells("b") == ["x;y", "z"]
    assert table.lines.tolist() == [2, 4]


def test_columns_without_a_name_are_left_out_and_said(tmp_path):
    table = read(tmp_path, ",path,kind,,weight\n0,a.png,lynx,x,1.5\n1,b.png,ocelot,y,20\n")
    assert content_of(table) == CELLS
    assert table.notes == ("columns 1, 4 without a name left out",)


def test_names_of_columns_are_found_without_case(tmp_path):
    table = read(tmp_path, PLAIN.replace("path", "Path").replace("kind", "Kind of  cat"))
    assert (table.find("path"), table.find("kind of cat"), table.find("colour")) == ("Path", "Kind of  cat", None)
    with pytest.raises(DataError, match="has no column 'wieght'; did you mean weight"):
        table.column("wieght")
    with pytest.raises(DataError, match="has columns 'Size' and 'size'; write 'SIZE' like one of them"):
        read(tmp_path, "Size,size\n1,2\n").find("SIZE")


@pytest.mark.parametrize(
    ("content", "numbers"),
    [
        ("a;b\n1,234;2,5\n5;3\n", [1.234, 5]),  # semicolons are between the cells because a comma is in them
        ("a;b\n1.234,5;2\n-7;3\n", [1234.5, -7]),
        ("a;b\n0.5;2,5\n1.234;1,5\n", [0.5, 1.234]),
        ("a\tb\n1.234,5;2\n", None),
        ("a\tb\n1,25\t2\n3,5\t2\n", [1.25, 3.5]),
        ("a,b\n1e3,2\n-.5,1\n", [1000, -0.5]),
    ],
)
def test_decimal_commas(tmp_path, content, numbers):
    if numbers is None:
        with pytest.raises(DataError, match="line 2: 1 cell here and 2"):
            read(tmp_path, content)
    else:
        assert read(tmp_path, content).numbers("a").tolist() == numbers


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,\n\nheavy,\n", "line 4: 'heavy' is no a, which must be a number; leave the cell empty"),
        ("a,b\n1,\n1_000,\n", "line 3: '1_000' is no a"),
        ("a,b\n1,\ninf,\n", "line 3: 'inf' is no a"),
        ("a,b\n1e999,\n", "line 2: '1e999' is no a"),
        ('a,b\n"1,234",\n', "line 2: '1,234' is no a, which must be a number; write it without a thousands separator"),
        ("a\tb\n1,234\t\n", "'1,234' is no a, which must be a number; write it without a thousands separator"),
        ("a;b\n1.5;\n2,5;1\n", "line 3: '2,5' is no a"),
        ("a;b\n1.234;1,5\n5;1,5\n", "line 2: '1.234' of 'a' is one number with a decimal point and another"),
        ("a;b\n1,5;1,5\n1.5;1,5\n", "line 3: '1.5' has a point, and other cells of 'a' a comma; write all alike"),
    ],
)
def test_numbers_that_are_none_or_have_two_meanings(tmp_path, content, message):
    table = read(tmp_path, content)
    assert not table.are_numbers("a")
    with pytest.raises(DataError) as caught:
        table.numbers("a")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n1,2,3\n", "line 3: 3 cells here and 2 in the header; a cell with commas in it needs quotes"),
        (
            "a;b\n1;2\n\n1\n",
            "line 4: 1 cell here and 2 in the header; write empty cells too, or remove the line",
        ),
        ("sep=;\na;b\n1\n", "line 3: 1 cell here and 2"),
        ("a,b,\n1,2,3\n", "line 2: 3 cells here and 2"),
        ('a,b\n1,"2\n' + "1,2\n" * 50_000, "is every quote closed?"),
        ("a,b,a\n1,2,3\n", "has two columns 'a'; rename one"),
        (b"a,b\n1,\x00\n", "has zero bytes and is no text; save the table as CSV UTF-8"),
        ("a,b\n1,\0\n".encode("utf-16"), "has zero bytes in its cells"),
        ("a,b\n1,2".encode("utf-16")[:-1], "is damaged"),
        (
            "ä,b\n1,2\n".encode() + b"3,\xff\n",
            "line 3: damaged (invalid start byte of UTF-8, in which other lines are)",
        ),
        (b"a,b\n1,\x81\n", "is damaged"),
        (b'a,b\n1,2\n3,"4\n5,6\n7,8\n9\n', "line 3: a quote that opens here goes on to the end of the file"),
        (
            b'a,b,c\n1,2,3\n3,"4,3\n5,6,3\n',
            "line 3: 2 cells here and 3 in the header, as a quote that opens here goes on to line 4",
        ),
        (
            b"a,b,c\n1,2,3\nsum 4\n",
            "line 3: 1 cell here and 3 in the header; write empty cells too, or remove the line",
        ),
        (
            b"Ann,31,\nBob,4,x\nEve,5,y\n",
            "line 2: 3 cells here and 2 in the header, which has numbers; the first line must hold",
        ),
        (
            b"\xef\xbb\xbf<!DOCTYPE html><html>",
            "is a web page (HTML or XML), no table; a server may have answered with a page to log in",
        ),
        (b"\n<html><body>Log in</body></html>", "is a web page"),
        (b'[{"a": 1, "b": 2}]', "is JSON, no table; write it as CSV, a line for each row"),
        (b'{"a": [1, 2],\n "b": [3, 4]}', "is JSON"),
        (b"PK\x03\x04 and so on", "is a spreadsheet or an archive, no text; save the table as CSV UTF-8"),
        (b"PAR1 and so on", "is a Parquet file, no text"),
    ],
)
def test_what_is_no_table_is_one_message(tmp_path, content, message):
    with pytest.raises(DataError, match=r"^task: .*labels\.csv") as caught:
        read(tmp_path, content)
    assert message in str(caught.value)


def test_only_files_that_can_be_read_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    for name, message in {
        "nowhere.csv": "there is no file",
        "": "is a folder; name the table in it",
        "pipe.csv": "is a pipe or a device",
        "loop.csv": "cannot read .*loop.csv",
        "a\0b.csv": "cannot read",
    }.items():
        with pytest.raises(DataError, match=message):
            read_table(f"{tmp_path}/{name}", "task")


def test_an_empty_table_has_no_columns(tmp_path):
    for content in ("", "\n\n", "\ufeff"):
        table = read(tmp_path, content)
        assert (len(table), table.names) == (0, ())
    assert (len(read(tmp_path, "a,b\n")), read(tmp_path, "a,b\n").cells("b")) == (0, [])


def test_a_long_table_is_read_in_pieces(tmp_path):
    table = read(tmp_path, "a,b\n" + "".join(f"{i},x{i}\n" for i in range(10_000)))
    assert table.numbers("a").tolist() == list(range(10_000))
    assert table.cells("b")[9_999] == "x9999"
    assert table.lines[[0, 9_999]].tolist() == [2, 10_001]
    assert list(table.rows(["b", "a"]))[5_000] == ("x5000", "5000")


def test_columns_in_memory_are_a_table_too():
    weights = np.array([1.5, np.nan, 20])
    table = TextTable.of_columns("task", "the frame", {"kind": ["a", "b", "a"], "weight": weights})
    assert (len(table), table.cells("weight"), table.cells("kind")) == (3, ["1.5", "", "20"], ["a", "b", "a"])
    np.testing.assert_array_equal(table.numbers("weight"), weights)
    with pytest.raises(DataError, match="the frame, row 1: 'a' is no kind"):
        table.numbers("kind")


# ---- classes and missing cells ---------------------------------------------------------------------------------------


def column(*cells):
    return TextTable.of_columns("task", "labels.csv", {"kind": list(cells)})


def test_spellings_of_missing_cells_are_no_classes():
    spelled = ("", "NaN", "nan", "NA", "N/A", "None", "null", "?", "-", "#N/A")
    labels = class_labels(column("cat", *spelled, "dog", "NA"), "kind")
    assert labels.classes == ("cat", "dog")
    assert labels.codes.tolist() == [0, *[-1] * len(spelled), 1, -1]
    assert labels.missing["NA"] == 2
    assert class_labels(column("cat", "NA", ""), "kind", missing=missing_spellings([])).classes == ("NA", "cat")
    numbers = column("1", *spelled, "-999").numbers("kind", missing_spellings(["NA", "n/a", "-999", "nan", *spelled]))
    assert np.isnan(numbers).tolist() == [False, *[True] * (len(spelled) + 1)]
    assert column("1", "-999").numbers("kind", missing_spellings(["-999"])).tolist()[0] == 1
    assert np.isnan(column("1", "-999").numbers("kind", missing_spellings(["-999"]))[1])


@pytest.mark.parametrize(
    ("cells", "joined"),
    [
        (("1", "1.0", "2", "1"), ("1", "2")),
        (("Cat", "cat", "dog", "cat"), ("cat", "dog")),
        (("big  cat", "big cat", "big cat"), ("big cat",)),
        (("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}", "tea"), None),
        (("7", "007", "8", "007"), ("007", "8")),
    ],
)
def test_classes_that_differ_in_spelling_only(cells, joined):
    with pytest.raises(DataError, match=r"labels\.csv, row \d: kind is .* alike, or set task\.similar_classes to join"):
        class_labels(column(*cells), "kind")
    labels = class_labels(column(*cells), "kind", similar="join")
    assert len(labels.classes) == len(set(cells)) - 1
    assert labels.codes.min() == 0
    if joined:
        assert labels.classes == joined
    assert set(class_labels(column(*cells), "kind", similar="keep").classes) == set(cells)


def test_classes_of_a_model_are_taken_as_they_are():
    labels = class_labels(column("dog", "Cat", "", "dog"), "kind", known=("dog", "cat", "emu"))
    assert labels.classes == ("dog", "cat", "emu")
    assert labels.codes.tolist() == [0, 1, -1, 0]
    assert class_labels(column("NA", "x"), "kind", known=("NA", "x")).codes.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"row 2: kind is 'cow', which is none of the classes.*: dog, cat"):
        class_labels(column("dog", "cow"), "kind", known=("dog", "cat"))
