#!/usr/bin/env bash
# torch 2.14.1: a tensor made with nn.Buffer stays marked, and assigning it to an attribute of any other module registers it there.
#
# `module.b = nn.Buffer(tensor)` reads like `module.register_buffer("b", tensor)`. With register_buffer the tensor that
# `module.b` returns is an ordinary one: another module may keep it in a plain attribute, such as a cache of the last
# weights. With nn.Buffer the same assignment adds an entry to the other module's state_dict, so a strict load of an older
# checkpoint fails; if the attribute was None before, the assignment itself raises KeyError; and a buffer that was
# registered there with persistent=False becomes persistent.
#
# Why one guesses wrong: type(module.b) is torch.Tensor in both cases, and nothing of the assignment says "register". Any
# operation on the tensor (detach(), to() with another dtype, + 0) gives an unmarked one.
#
# Output seen:
#   torch 2.14.1+cu130
#   type of both: Tensor, Tensor
#   state of a module that keeps the tensor of register_buffer: nothing
#   state of a module that keeps the tensor of nn.Buffer: last
#   state of a module that keeps the tensor of nn.Buffer, detached: nothing
#   attribute that was None: KeyError
#   attribute that was a non-persistent buffer, in the state before and after: no, yes
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "torch==2.14.1" "numpy<3"
cat > "$place/probe.py" <<'PY'
import torch
from torch import nn


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("registered", torch.zeros(2))
        self.made = nn.Buffer(torch.zeros(2))


def state_of_keeper(tensor):
    """State of another module that keeps the tensor in an attribute."""
    keeper = nn.Module()
    keeper.last = tensor
    return ", ".join(keeper.state_dict()) or "nothing"


def assign_over_none(tensor):
    keeper = nn.Module()
    keeper.last = None
    try:
        keeper.last = tensor
    except KeyError:
        return "KeyError"
    return "ok"


def persistent_before_and_after(tensor):
    keeper = nn.Module()
    keeper.register_buffer("last", torch.ones(2), persistent=False)
    before = "last" in keeper.state_dict()
    keeper.last = tensor
    return ", ".join("yes" if held else "no" for held in (before, "last" in keeper.state_dict()))


weights = Weights()
types = ", ".join(type(tensor).__name__ for tensor in (weights.registered, weights.made))
results = {
    "type of both": (types, "Tensor, Tensor"),
    "state of a module that keeps the tensor of register_buffer": (state_of_keeper(weights.registered), "nothing"),
    "state of a module that keeps the tensor of nn.Buffer": (state_of_keeper(weights.made), "last"),
    "state of a module that keeps the tensor of nn.Buffer, detached": (state_of_keeper(weights.made.detach()), "nothing"),
    "attribute that was None": (assign_over_none(weights.made), "KeyError"),
    "attribute that was a non-persistent buffer, in the state before and after": (
        persistent_before_and_after(weights.made),
        "no, yes",
    ),
}
print("torch", torch.__version__)
for what, (seen, _) in results.items():
    print(f"{what}: {seen}")
assert all(seen == expected for seen, expected in results.values())
PY
"$place/venv/bin/python" "$place/probe.py"
