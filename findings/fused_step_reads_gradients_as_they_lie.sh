#!/usr/bin/env bash
# torch 2.14.1, CPU: a fused optimizer steps the wrong coordinates if .grad lies in memory in another order than the parameter.
#
# SGD and Adam with fused=True read parameter and gradient side by side in memory, without a look at their strides. Where the
# strides differ, as those of a contiguous .grad of a channels_last weight or of a transposed parameter, every coordinate is
# stepped by the gradient of another one. There is no message. The same optimizers without fused=True, and with foreach=True,
# are right.
#
# Why one guesses wrong: .grad may be assigned, torch checks its shape, type and device and accepts any strides, and every
# operation on two tensors pairs coordinates, not addresses. Gradients that backward itself writes do lie as their parameter.
# A copy helps: parameter.grad = torch.empty_like(parameter).copy_(gradient).
#
# Output seen (largest error of a step, whose largest coordinate is 6 for SGD and 0.55 for Adam):
#   torch 2.14.1+cu130
#   SGD  foreach strides alike  0.0e+00
#   SGD  foreach strides differ 0.0e+00
#   SGD  fused   strides alike  0.0e+00
#   SGD  fused   strides differ 2.0e+00
#   Adam foreach strides alike  0.0e+00
#   Adam foreach strides differ 0.0e+00
#   Adam fused   strides alike  0.0e+00
#   Adam fused   strides differ 1.6e-01
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "torch==2.14.1" "numpy<3" setuptools
cat > "$place/probe.py" <<'PY'
import torch
from torch import nn

print("torch", torch.__version__)
for kind, options in ((torch.optim.SGD, {}), (torch.optim.Adam, {"eps": 5.0})):
    for way in ("foreach", "fused"):
        for alike in (True, False):
            parameter = nn.Parameter(torch.zeros(3, 2).T)  # (2, 3), of which the columns lie one after the other
            gradient = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
            parameter.grad = torch.empty_like(parameter).copy_(gradient) if alike else gradient
            kind([parameter], lr=1.0, **{way: True}, **options).step()
            wanted = -gradient if kind is torch.optim.SGD else -gradient / (gradient + 5)
            error = float((parameter.detach() - wanted).abs().max())
            print(f"{kind.__name__:<4} {way:<7} strides {'alike' if alike else 'differ':<6} {error:.1e}")
            assert (error > 0.1) == (way == "fused" and not alike)
PY
"$place/venv/bin/python" "$place/probe.py"
