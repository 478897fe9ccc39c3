"""One objective is trained alone."""

import pytest

from balancing import create_balancer
from tests.balancing.problems import check_turns


@pytest.mark.parametrize(("options", "trained"), [({"objective": "b"}, "bbb"), ({}, "aaa")])
def test_heads_that_take_no_part_get_no_gradient(options, trained):
    check_turns(create_balancer("single", ("a", "b", "c"), **options), trained)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="single"):
        create_balancer("single", ("a", "b"), objective="x")
