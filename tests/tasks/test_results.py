"""Keys of results: what is written can be read, and nothing else can."""

import pytest

from tasks.results import ResultKey, objectives_of, with_split, without_split


@pytest.mark.parametrize(
    ("text", "key"),
    [("cut/accuracy", ResultKey("cut", "accuracy")), ("test/cut/loss", ResultKey("cut", "loss", "test"))],
)
def test_text_and_key_are_inverse(text, key):
    assert (ResultKey.parse(text), str(key), key.is_loss) == (key, text, text.endswith("loss"))


@pytest.mark.parametrize("text", ["", "loss", "test/cut/top/5"])
def test_other_numbers_of_parts_are_refused(text):
    with pytest.raises(ValueError, match=r"<objective>/<metric>.*got '"):
        ResultKey.parse(text)


def test_the_split_of_all_keys_is_added_and_removed():
    values = {"cut/loss": 0.5, "price/r2": None, "cut/accuracy": 0.75}
    tested = {"test/cut/loss": 0.5, "test/price/r2": None, "test/cut/accuracy": 0.75}
    assert (with_split(values, "test"), without_split(tested)) == (tested, values)
    assert list(without_split(tested)) == list(values)
    assert objectives_of(tested) == ["cut", "price"]
