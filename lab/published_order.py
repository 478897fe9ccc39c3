"""Whether the study of QM9 orders methods as the published tables do.

python lab/collect.py    # writes the block
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from lab import documents
from lab.method_tables import Results, finished
from lab.reproductions.published_tables import read

#: Method -> its name in the published table.
PRINTED = {
    "sum": "LS",
    "realtime": "SI",
    "dwa": "DWA",
    "uncertainty": "UW",
    "mgda": "MGDA",
    "pcgrad": "PCGrad",
    "cagrad": "CAGrad",
    "imtl_g": "IMTL-G",
    "nash_mtl": "Nash-MTL",
    "famo": "FAMO",
}


def alike(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[int, int]:
    """Pairs of names that both put into the same order, and all pairs."""
    pairs = list(itertools.combinations(one, 2))
    return sum((one[a] < one[b]) == (other[a] < other[b]) for a, b in pairs), len(pairs)


def qm9_order() -> str:
    """Published and measured delta-m, and how many pairs are ordered alike."""
    if not finished("qm9"):
        return "The order of methods is compared with that of the published tables when the study has run.\n"
    outcome, printed = Results("qm9"), read()["qm9"]["printed"]["delta-m"]
    published = {method: float(printed[name]) for method, name in PRINTED.items()}
    here = {method: outcome.delta(method).mean for method in PRINTED}
    ordered = sorted(published, key=lambda method: published[method])
    lines = [
        [f"`{method}` ({PRINTED[method]})", f"{published[method]:.1f}", f"{here[method]:.1f}"] for method in ordered
    ]
    same, pairs = alike(published, here)
    return (
        f"{documents.table(('method', 'published delta-m, %', 'here'), lines)}\n"
        f"Of {pairs} pairs of methods {same} have the published order. The published numbers are of 110,831 molecules, 300 epochs "
        "and another network (Navon et al., ICML 2022, Table 1; Liu et al., NeurIPS 2023, Table 5), so only the order can agree.\n"
    )


BLOCKS: documents.Blocks = {"docs/results.md": {"qm9_order": qm9_order}}
