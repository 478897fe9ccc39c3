#!/usr/bin/env bash
# transformers 5.24.0: Trainer lets the gradients of an optimizer's other parameters add up over all steps.
#
# Trainer takes an optimizer of one's own, `optimizers=(optimizer, scheduler)`, which may hold parameters that are not the
# model's: learned weights of several losses, a loss with parameters of its own, a second network. After a step Trainer calls
# `model.zero_grad()`, not `optimizer.zero_grad()`. So `.grad` of the other parameters is never cleared: the second step has
# the gradients of two steps, the hundredth those of a hundred. Nothing warns, and the loss still falls.
#
# Why one guesses wrong: every loop of one's own, and Accelerate and Lightning, clear what the optimizer holds; Trainer steps
# these parameters like all others. A TrainerCallback whose on_step_begin clears them is the way out.
#
# Output seen:
#   torch 2.14.1+cu130 transformers 5.24.0
#   gradient of a parameter of the model, step by step:   [1.0, 1.0, 1.0, 1.0, 1.0]
#   gradient of another parameter of the same optimizer:  [1.0, 2.0, 3.0, 4.0, 5.0]
#   the latter with optimizer.zero_grad() after each step: [1.0, 1.0, 1.0, 1.0, 1.0]
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "torch==2.14.1" "numpy<3" "transformers==5.24.0" "accelerate==1.15.0"
cat > "$place/probe.py" <<'PY'
import logging
import tempfile

import torch
import transformers
from torch import nn
from transformers import PrinterCallback, Trainer, TrainingArguments

logging.disable(logging.WARNING)
STEPS = 5


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.outside = []  # a list, so that what it holds is no parameter of the model

    def forward(self, x):
        return {"loss": (self.weight * x).sum() + sum((parameter * x).sum() for parameter in self.outside)}


def gradients(zero_grad):
    """Gradients of a parameter inside and of one outside of the model at every step; the true ones are all 1."""
    model, outside, seen = Model(), nn.Parameter(torch.zeros(1)), []
    model.outside.append(outside)
    optimizer = torch.optim.SGD([*model.parameters(), outside], lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: seen.append((model.weight.grad.item(), outside.grad.item())))
    if zero_grad:
        optimizer.register_step_post_hook(lambda *_: optimizer.zero_grad())
    with tempfile.TemporaryDirectory() as folder:
        options = {"max_steps": STEPS, "max_grad_norm": 0.0, "per_device_train_batch_size": 1}
        quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
        trainer = Trainer(
            model=model,
            args=TrainingArguments(folder, **options, **quiet),
            train_dataset=[{"x": torch.ones(1)}] * STEPS,
            optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return [list(column) for column in zip(*seen, strict=True)]


print("torch", torch.__version__, "transformers", transformers.__version__)
inside, outside = gradients(zero_grad=False)
print("gradient of a parameter of the model, step by step:  ", inside)
print("gradient of another parameter of the same optimizer: ", outside)
cleared = gradients(zero_grad=True)
print("the latter with optimizer.zero_grad() after each step:", cleared[1])
assert inside == [1.0] * STEPS
assert outside == [1.0, 2.0, 3.0, 4.0, 5.0]
assert cleared == [[1.0] * STEPS] * 2
PY
"$place/venv/bin/python" -W ignore "$place/probe.py"
