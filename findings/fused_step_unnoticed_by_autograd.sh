#!/usr/bin/env bash
# torch 2.14.1, CPU: a fused optimizer steps between the forward and the backward of a second loss.
#
# Two losses share a forward pass. The first is differentiated, the optimizer steps, then the second is differentiated: a
# common mistake, for instance of GAN loops. Autograd notices it by the version counters of the parameters, and refuses: "one
# of the variables needed for gradient computation has been modified by an inplace operation". With fused=True the kernels
# change the parameters without counting, so the backward runs, with the new weights and the old activations, and its
# gradients belong to no loss at all. GradScaler.unscale_ does not count its change of .grad either.
#
# Why one guesses wrong: `fused` is documented as a choice of implementation, and whoever got that error once relies on it.
# Code that watches `_version` to see whether parameters moved (as ours did) finds that they never do.
#
# Output seen:
#   torch 2.14.1+cu130
#   SGD      unfused: refused             fused: gradient off by 20.8 %
#   Adam     unfused: refused             fused: gradient off by 24.3 %
#   AdamW    unfused: refused             fused: gradient off by 24.3 %
#   Adagrad  unfused: refused             fused: gradient off by 24.3 %
#   GradScaler.unscale_: version of .grad before 1, after 1
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "torch==2.14.1" "numpy<3"
cat > "$place/probe.py" <<'PY'
import torch

print("torch", torch.__version__)


def second_gradient(optimizer_class, fused, step):
    """Gradient of the second loss in the first layer, with or without the first loss's step before its backward."""
    torch.manual_seed(0)
    first, second, x = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1), torch.randn(4, 3)
    optimizer = optimizer_class([*first.parameters(), *second.parameters()], lr=0.1, fused=fused)
    losses = second(first(x)).sum(), second(first(x)).square().sum()
    if step:
        losses[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    try:
        losses[1].backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        return None
    return first.weight.grad


for name in ("SGD", "Adam", "AdamW", "Adagrad"):
    each = getattr(torch.optim, name)
    right, unfused, fused = (second_gradient(each, f, s) for f, s in ((False, False), (False, True), (True, True)))
    assert unfused is None
    assert fused is not None
    off = float((fused - right).norm() / right.norm())
    print(f"{name:8s} unfused: refused             fused: gradient off by {off:.1%}".replace("%", " %"))
    assert off > 0.01

parameter = torch.nn.Parameter(torch.ones(3))
optimizer, scaler = torch.optim.SGD([parameter], lr=0.1), torch.amp.GradScaler("cpu")
scaler.scale(parameter.sum()).backward()
before = parameter.grad._version
scaler.unscale_(optimizer)
print(f"GradScaler.unscale_: version of .grad before {before}, after {parameter.grad._version}")
assert parameter.grad.tolist() == [1, 1, 1]
assert parameter.grad._version == before
PY
"$place/venv/bin/python" "$place/probe.py"
