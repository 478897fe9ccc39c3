#!/usr/bin/env bash
# torch 2.14.1, CPU: torch.autograd.grad returns the gradient at a tensor with a hook before or after the hook, by what else is asked.
#
# h has a hook that doubles its gradient, and is computed from x. grad(loss, [h]) returns the gradient after the hook.
# grad(loss, [h, x]) returns for h the gradient before the hook, and for x what follows from the one after it. The engine keeps
# what arrives at h; where it has to go on below h, the hook runs after that, and where it has not, before. So a gradient that
# was taken at h and is fed in again, grad(h, [x], gradient), gives x twice the factor of the hook in the first case, and the
# right gradient in the second.
#
# Why one guesses wrong: the documentation of hooks says that a hook of a tensor among the inputs always runs, and each entry of
# the result is documented as the gradient at that input, which further inputs should not change.
#
# Output seen:
#   torch 2.14.1+cu130
#   at h, asked for alone:          2
#   at h, asked for with x:         1
#   at x, by the whole graph:       6
#   at x, from h's, asked alone:    12
#   at x, from h's, asked with x:   6
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "torch==2.14.1" "numpy<3"
"$place/venv/bin/python" - <<'PY'
import torch

print("torch", torch.__version__)
x = torch.ones((), requires_grad=True)
h = 3 * x
h.register_hook(lambda gradient: 2 * gradient)
loss = 1 * h
(alone,) = torch.autograd.grad(loss, [h], retain_graph=True)
with_x, whole = torch.autograd.grad(loss, [h, x], retain_graph=True)
again = [torch.autograd.grad(h, [x], gradient, retain_graph=True)[0] for gradient in (alone, with_x)]
found = [alone, with_x, whole, *again]
titles = ("at h, asked for alone:", "at h, asked for with x:", "at x, by the whole graph:")
titles += ("at x, from h's, asked alone:", "at x, from h's, asked with x:")
for title, value in zip(titles, found, strict=True):
    print(f"{title:<31} {value.item():g}")
assert [value.item() for value in found] == [2, 1, 6, 12, 6]
PY
