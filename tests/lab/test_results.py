"""Rows in results/ name what they were measured with."""

import torch

from lab import benchmark_balancers, results
from mozoo.device import own_threads


def test_a_row_names_the_threads_of_its_own_part(tmp_path):
    """Parts on one thread stand beside those on all."""
    file = tmp_path / "cost.csv"
    results.write_rows(file, [], ["part", *benchmark_balancers.FIELDS, "device"])
    problem = benchmark_balancers.SmallProblem(2, "mlp")

    @own_threads()
    def on_two_threads():
        torch.set_num_threads(2)
        return benchmark_balancers.compare(problem, {"plain": problem.plain}, 1, "steps")

    parts = {"other": lambda: [{"variant": "plain"}], "small": on_two_threads}
    results.record(file, benchmark_balancers.FIELDS, parts, {"device": "cpu (1 thread)"})
    assert [row["device"] for row in results.read_rows(file)] == ["cpu (1 thread)", "cpu (2 threads)"]
