#!/usr/bin/env bash
# torch 2.14.1, CPU: torch.optim.SGD(fused=True, momentum > 0) behind a GradScaler whose first step overflows.
#
# A GradScaler starts with a large scale, so the first fp16 step often overflows and is skipped; that is by design. Unfused
# SGD then has no momentum yet and starts it at the next step. Fused SGD handles the skip inside its kernel: the parameters
# stay as they are, but the optimizer has already stored a momentum buffer, which nothing has written to. The next step,
# with ordinary gradients, multiplies whatever that memory held by the momentum and adds it to the parameters.
# A second surprise of the same flag: with momentum, a parameter whose first gradient arrives at a later step than another's
# (a layer that was skipped, objectives that take turns) ends in a TypeError; unfused SGD and fused Adam take it.
#
# Why one guesses wrong: `fused` is documented as a choice of implementation, fused Adam behaves as unfused Adam in both
# situations, and the parameters after the skipped step look right.
#
# Output seen:
#   torch 2.14.1+cu130
#   unfused: state after the skipped step: nothing; 0 of 20 trials leave 0.9 at the next step
#   fused:   state after the skipped step: momentum_buffer; 20 of 20 trials leave 0.9 at the next step
#   (how many depends on what freed memory holds; values up to 1e14 and NaN were seen)
#   late first gradient: unfused SGD ok, fused Adam ok, fused SGD TypeError
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "torch==2.14.1" "numpy<3"
cat > "$place/probe.py" <<'PY'
import torch

print("torch", torch.__version__)
NUMBERS = 4096


def skipped_first_step(fused):
    """State after a first step that overflows, and the parameter after an ordinary second one."""
    parameter = torch.nn.Parameter(torch.ones(NUMBERS))
    parameter.grad = torch.zeros(NUMBERS)
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    memory = [torch.full((NUMBERS,), 7.0) for _ in range(20)]  # what freed memory is likely to hold
    del memory
    states = []
    for factor in (float("inf"), 1.0):
        optimizer.zero_grad(set_to_none=False)
        scaler.scale((parameter * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        states.append(", ".join(optimizer.state[parameter]) or "nothing")
    return states[0], parameter.detach()


def late_first_gradient(make):
    """Two parameters, one of which gets its first gradient at the second step."""
    early, late = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = make([early, late])
    early.grad = torch.ones(2)
    optimizer.step()
    late.grad = torch.ones(2)
    try:
        optimizer.step()
    except TypeError:
        return "TypeError"
    return "ok"


for name, fused, expected in (("unfused:", False, "nothing"), ("fused:  ", True, "momentum_buffer")):
    trials = [skipped_first_step(fused) for _ in range(20)]
    wrong = sum(not torch.allclose(values, torch.full((NUMBERS,), 0.9)) for _, values in trials)
    print(f"{name} state after the skipped step: {trials[0][0]}; {wrong} of {len(trials)} trials leave 0.9 at the next step")
    assert {state for state, _ in trials} == {expected}
    assert fused or wrong == 0
results = {
    "unfused SGD": late_first_gradient(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "fused Adam": late_first_gradient(lambda p: torch.optim.Adam(p, lr=0.1, fused=True)),
    "fused SGD": late_first_gradient(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True)),
}
print("late first gradient:", ", ".join(f"{name} {result}" for name, result in results.items()))
assert results == {"unfused SGD": "ok", "fused Adam": "ok", "fused SGD": "TypeError"}
PY
"$place/venv/bin/python" "$place/probe.py"
