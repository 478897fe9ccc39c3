"""Models and loops as people write them: every cell is right, or refused by name."""

import pytest

from tests.balancing.set_ups import (  # noqa: F401, they enter their set-ups into the table
    absence,
    bilevel,
    layers,
    outputs,
    parameters,
    precision,
    processes,
    state,
    steps,
)
from tests.balancing.set_ups.table import CHECKS, cells


@pytest.mark.parametrize(("name", "method"), cells())
def test_set_up_is_right_or_refused_by_name(name, method):
    CHECKS[name](method)
