"""Batches of several sources: how often each has its turn, and that they follow from seed and epoch alone."""

from itertools import pairwise

import pytest
import torch

from tasks.batch_order import BatchOrder

SIZES = (100, 30, 20)
TURNS = ("proportional", "temperature", "round_robin", "until_exhausted")
SOURCE = torch.tensor([source for source, size in enumerate(SIZES) for _ in range(size)])


def order(turns, per_step, sizes=SIZES, temperature=2.0):
    return BatchOrder(sizes, turns, temperature, per_step)


@pytest.mark.parametrize("per_step", ["one", "all"])
@pytest.mark.parametrize("turns", TURNS)
def test_batches_are_full_as_many_as_counted_and_repeatable(turns, per_step):
    batches = order(turns, per_step).batches(10, seed=3, epoch=1)
    assert len(batches) == order(turns, per_step).count(10)
    assert {len(batch) for batch in batches} == {10}
    again = order(turns, per_step).batches(10, seed=3, epoch=1)
    assert all(map(torch.equal, batches, again))
    other = order(turns, per_step).batches(10, seed=3, epoch=2)
    assert not all(map(torch.equal, batches, other))


@pytest.mark.parametrize("turns", TURNS)
def test_step_of_one_source_holds_no_other(turns):
    for batch in order(turns, "one").batches(10, 0, 0):
        assert len(SOURCE[batch].unique()) == 1


@pytest.mark.parametrize("turns", TURNS)
def test_step_of_all_sources_holds_each(turns):
    for batch in order(turns, "all").batches(10, 0, 0):
        assert len(SOURCE[batch].unique()) == 3


def turns_of(turns, **options):
    return [int(SOURCE[batch[0]]) for batch in order(turns, "one", **options).batches(10, 0, 0)]


def test_proportional_visits_every_sample_once():
    assert sorted(torch.cat(order("proportional", "one").batches(10, 0, 0)).tolist()) == list(range(150))
    assert [turns_of("proportional").count(s) for s in range(3)] == [10, 3, 2]


def test_temperature_makes_sources_more_equal():
    def counts(temperature):
        found = turns_of("temperature", temperature=temperature)
        return [found.count(s) for s in range(3)]

    assert counts(1.0) == [10, 3, 2]
    assert sum(counts(2.0)) == 15
    assert counts(1.0)[0] > counts(2.0)[0] > counts(1e9)[0] == 5


def test_round_robin_takes_turns_until_the_largest_was_seen():
    found = turns_of("round_robin")
    assert found == [0, 1, 2] * 10
    counts = torch.cat(order("round_robin", "one").batches(10, 0, 0)).bincount()
    assert set(counts[:100].tolist()) == {1}
    assert set(counts[100:130].tolist()) == {3, 4}
    assert set(counts[130:].tolist()) == {5}


def test_until_exhausted_takes_turns_until_the_smallest_was_seen():
    assert turns_of("until_exhausted") == [0, 1, 2] * 2
    whole = torch.cat(order("until_exhausted", "one").batches(10, 0, 0))
    assert sorted(whole[SOURCE[whole] == 2].tolist()) == list(range(130, 150))
    assert whole.bincount().max() == 1


def test_small_source_is_repeated_only_when_all_of_it_was_seen():
    for batches in (order("round_robin", per_step).batches(12, 5, 0) for per_step in ("one", "all")):
        seen = [i for batch in batches for i in batch.tolist() if SOURCE[i] == 2]
        passes = [seen[start : start + 20] for start in range(0, len(seen), 20)]
        for one, following in pairwise(passes):
            assert sorted(one) == list(range(130, 150))
            assert len(set(following)) == len(following)
            assert one != following


def test_source_smaller_than_a_batch_fills_it():
    batches = order("proportional", "one", sizes=(40, 3)).batches(8, 0, 0)
    (small,) = [batch for batch in batches if batch[0] >= 40]
    assert len(small) == 8
    assert set(small.tolist()) == {40, 41, 42}


@pytest.mark.parametrize(("turns", "shares"), [("proportional", [7, 2, 1]), ("round_robin", [4, 3, 3])])
def test_shares_of_a_batch(turns, shares):
    batch = order(turns, "all").batches(10, 0, 0)[0]
    assert SOURCE[batch].bincount().tolist() == shares
