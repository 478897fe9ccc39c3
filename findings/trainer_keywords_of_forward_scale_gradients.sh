#!/usr/bin/env bash
# transformers 5.24.0: whether `forward` has **kwargs decides if Trainer divides a loss of one's own by the micro-batches.
#
# A subclass of Trainer that overrides `compute_loss`, for instance to add up several losses, returns the mean over a
# micro-batch. With gradient_accumulation_steps=4 Trainer divides it by 4, unless the model's `forward` takes **kwargs, as many
# models of the library do: Trainer then trusts that the loss was divided by `num_items_in_batch` already, whoever
# computed it. The gradient is then 4 times as long, and nothing warns.
#
# Why one guesses wrong: the loss is computed by the subclass, and both models return the same answers; adding **keywords to a
# signature changes nothing anywhere else.
#
# Output seen:
#   torch 2.14.1+cu130 transformers 5.24.0
#   Plain: gradient of a whole batch -4.4, of 4 micro-batches -4.4
#   WithKeywords: gradient of a whole batch -4.4, of 4 micro-batches -17.6
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
ACCUMULATED = 4


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, labels):
        return (self.weight - x - labels).square()


class WithKeywords(Plain):
    def forward(self, x, labels, **keywords):
        return super().forward(x, labels)


class TwoLosses(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        errors = model(**inputs)
        return errors.mean() + 0.1 * errors.abs().mean()


def gradient(model, accumulated):
    """Gradient of the weight at the first step of 4 samples, in so many micro-batches."""
    seen = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(lambda *_: seen.append(model.weight.grad.item()))
    with tempfile.TemporaryDirectory() as folder:
        options = {"max_steps": 1, "max_grad_norm": 0.0, "per_device_train_batch_size": 4 // accumulated}
        quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
        trainer = TwoLosses(
            model=model,
            args=TrainingArguments(folder, gradient_accumulation_steps=accumulated, **options, **quiet),
            train_dataset=[{"x": torch.ones(1), "labels": torch.ones(1)}] * 4,
            optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return seen[0]


print("torch", torch.__version__, "transformers", transformers.__version__)
for model in (Plain, WithKeywords):
    whole, parts = gradient(model(), 1), gradient(model(), ACCUMULATED)
    assert abs(whole + 4.4) < 1e-4
    assert abs(parts / whole - (1 if model is Plain else ACCUMULATED)) < 1e-4
    print(f"{model.__name__}: gradient of a whole batch {whole:.1f}, of {ACCUMULATED} micro-batches {parts:.1f}")
PY
"$place/venv/bin/python" -W ignore "$place/probe.py"
