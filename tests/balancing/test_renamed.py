"""Earlier names of options and of states end in one message."""

import pytest
import torch

from balancing import PCGrad, create_balancer


@pytest.mark.parametrize(("old", "new"), [("every", "update_every"), ("ema", "weight_ema")])
def test_an_earlier_name_of_an_option_is_one_message_with_the_new_one(old, new):
    with pytest.raises(ValueError, match=f"^pcgrad: the option {old}= was renamed to {new}=$"):
        create_balancer("pcgrad", ("a", "b"), **{old: 2})
    with pytest.raises(ValueError, match=f"^pcgrad: the option {old}= was renamed to {new}=$"):
        PCGrad(("a", "b"), **{old: 2})


@pytest.mark.parametrize(("name", "prefix"), [("pcgrad", ""), (["uncertainty", "pcgrad"], "loss_balancer.")])
def test_a_state_with_earlier_names_is_one_message(name, prefix):
    balancer = create_balancer(name, ("a", "b"))
    state = balancer.state_dict() | {f"{prefix}held": torch.ones(2)}
    with pytest.raises(ValueError, match="saved by an earlier version"):
        balancer.load_state_dict(state)
