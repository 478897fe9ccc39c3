"""Scores against the tables that papers print."""

import numpy as np
import pytest

from tasks.scores import delta_m, hypervolume, mean_rank

# NYUv2, SegNet: Navon et al. (Nash-MTL), ICML 2022, table 2, and Liu et al. (FAMO), NeurIPS 2023, table 2
NYU = {
    name: name not in ("depth/abs", "depth/rel", "normal/mean", "normal/median")
    for name in (
        *("seg/miou", "seg/pixels", "depth/abs", "depth/rel", "normal/mean", "normal/median"),
        *("normal/11.25", "normal/22.5", "normal/30"),
    )
}
SINGLE = (38.30, 63.76, 0.6754, 0.2780, 25.01, 19.21, 30.14, 57.20, 69.15)
METHODS = {  # method: results, printed delta m, printed mean rank
    "LS": ((39.29, 65.33, 0.5493, 0.2263, 28.15, 23.96, 22.09, 47.50, 61.08), 5.59, 8.89),
    "SI": ((38.45, 64.27, 0.5354, 0.2201, 27.60, 23.37, 22.53, 48.57, 62.32), 4.39, 7.89),
    "RLW": ((37.17, 63.77, 0.5759, 0.2410, 28.27, 24.18, 22.26, 47.05, 60.62), 7.78, 11.22),
    "DWA": ((39.11, 65.31, 0.5510, 0.2285, 27.61, 23.18, 24.17, 50.18, 62.39), 3.57, 7.67),
    "UW": ((36.87, 63.17, 0.5446, 0.2260, 27.04, 22.61, 23.54, 49.05, 63.65), 4.05, 7.44),
    "MGDA": ((30.47, 59.90, 0.6070, 0.2555, 24.88, 19.45, 29.18, 56.88, 69.36), 1.38, 6.00),
    "PCGrad": ((38.06, 64.64, 0.5550, 0.2325, 27.41, 22.80, 23.86, 49.83, 63.14), 3.97, 8.00),
    "GradDrop": ((39.39, 65.12, 0.5455, 0.2279, 27.48, 22.96, 23.38, 49.44, 62.87), 3.58, 7.00),
    "CAGrad": ((39.79, 65.49, 0.5486, 0.2250, 26.31, 21.58, 25.61, 52.36, 65.58), 0.20, 4.56),
    # printed as -0.76, which its row does not give
    "IMTL-G": ((39.35, 65.60, 0.5426, 0.2256, 26.02, 21.19, 26.20, 53.13, 66.24), -0.60, 3.78),
    "Nash-MTL": ((40.13, 65.93, 0.5261, 0.2171, 25.26, 20.08, 28.40, 55.47, 68.15), -4.04, 2.11),
    "FAMO": ((38.88, 64.90, 0.5474, 0.2194, 25.06, 19.57, 29.21, 56.61, 68.98), -4.10, 3.44),
}
# NYUv2, ResNet-50: Lin et al. (DB-MTL), 2023, table 1, with LibMTL
SINGLE_RESNET = (53.50, 75.39, 0.3926, 0.1605, 21.99, 15.16, 39.04, 65.00, 75.16)
METHODS_RESNET = {
    "EW": ((53.93, 75.53, 0.3825, 0.1577, 23.57, 17.01, 35.04, 60.99, 72.05), -1.78),
    "GLS": ((54.59, 76.06, 0.3785, 0.1555, 22.71, 16.07, 36.89, 63.11, 73.81), 0.30),
    "CAGrad": ((53.97, 75.54, 0.3885, 0.1588, 22.47, 15.71, 37.77, 63.82, 74.30), -0.27),
}


def row(values):
    return dict(zip(NYU, values, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_delta_m_is_the_printed_one(method):
    values, printed, _ = METHODS[method]
    assert delta_m(row(values), row(SINGLE), NYU) == pytest.approx(printed, abs=0.011)


@pytest.mark.parametrize("method", METHODS_RESNET)
def test_improvement_of_libmtl_is_minus_delta_m_over_objectives(method):
    values, printed = METHODS_RESNET[method]
    assert -delta_m(row(values), row(SINGLE_RESNET), NYU, average="objectives") == pytest.approx(printed, abs=0.011)


def test_mean_ranks_are_the_printed_ones():
    ranks = mean_rank({method: row(values) for method, (values, _, _) in METHODS.items()}, NYU)
    assert {method: round(rank, 2) for method, rank in ranks.items()} == {m: mr for m, (_, _, mr) in METHODS.items()}


def test_delta_m_knows_directions():
    assert delta_m({"a/x": 2.0}, {"a/x": 1.0}, {"a/x": True}) == -100
    assert delta_m({"a/x": 2.0}, {"a/x": 1.0}, {"a/x": False}) == 100
    assert delta_m({"a/x": -1.0}, {"a/x": -2.0}, {"a/x": True}) == -50


def test_equal_values_share_the_better_rank():
    rows = {"a": {"x": 1.0, "y": 3.0}, "b": {"x": 1.0, "y": 1.0}, "c": {"x": 2.0, "y": 2.0}}
    assert mean_rank(rows, {"x": False, "y": True}) == {"a": 1.0, "b": 2.0, "c": 2.5}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: delta_m({"a/x": 1.0}, {"a/y": 1.0}, {"a/x": True}), "same metrics"),
        (lambda: delta_m({}, {}, {}), "same metrics"),
        (lambda: delta_m({"a/x": 1.0}, {"a/x": 0.0}, {"a/x": True}), "baseline of a/x is 0"),
        (lambda: delta_m({"a/x": 1.0}, {"a/x": 1.0}, {"a/x": True}, average="tasks"), "metrics or objectives"),
        (lambda: mean_rank({"a": {"x": 1.0}}, {"x": True, "y": True}), "x, y"),
        (lambda: mean_rank({"a": {"x": float("nan")}}, {"x": True}), "not a number"),
        (lambda: hypervolume([(0.0, 0.0, 0.0)], (1.0, 1.0)), r"\(N, 2\)"),
        (lambda: hypervolume([(float("nan"), 0.0)], (1.0, 1.0)), "numbers"),
    ],
)
def test_wrong_tables_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_hypervolumes_by_hand():
    assert hypervolume([(1, 2), (2, 1)], (3, 3)) == 3
    assert hypervolume([(1, 2), (2, 1), (2, 2), (4, 0)], (3, 3)) == 3  # dominated, and out of reach
    assert hypervolume([(0.5,), (0.2,)], (1,)) == pytest.approx(0.8)
    assert hypervolume([(1, 1, 1), (0, 2, 2)], (3, 3, 3)) == 8 + 3 - 2
    assert hypervolume([], (1, 1)) == 0


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_hypervolume_is_the_dominated_share_of_random_points(objectives):
    draw = np.random.RandomState(0)
    points, probes = draw.rand(6, objectives), draw.rand(100_000, objectives)
    share = (points[:, None] <= probes[None]).all(2).any(0).mean()
    assert hypervolume(points, np.ones(objectives)) == pytest.approx(share, abs=0.005)


def test_hypervolume_of_a_known_front():
    # Fonseca and Fleming's front, finely sampled; 0.34199 by quadrature
    t = np.linspace(-1, 1, 20_001)
    front = np.stack([1 - np.exp(-((t - 1) ** 2)), 1 - np.exp(-((t + 1) ** 2))], axis=1)
    assert hypervolume(front, (1, 1)) == pytest.approx(0.34199, abs=1e-4)
