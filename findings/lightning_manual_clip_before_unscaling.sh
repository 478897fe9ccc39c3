#!/usr/bin/env bash
# lightning 2.6.6: with fp16 and manual optimization, clip_gradients in training_step shortens gradients that are still scaled.
#
# With manual optimization the documented way to clip is `self.clip_gradients(optimizer, ...)` in `training_step`, between
# `manual_backward` and `optimizer.step()`. With precision="16-mixed" the gradients there are multiplied by the scale of
# Lightning's GradScaler (65536 at first) and are unscaled only inside `optimizer.step()`. So the limit acts on the scaled
# gradients, and the step is up to 65536 times too short; it changes whenever the scale does.
#
# Why one guesses wrong: with automatic optimization the same method sees unscaled gradients, Lightning owns the scaler, and
# with bf16 or fp32 the same code is right. In the hook `on_before_optimizer_step` it is right with every precision.
#
# Output seen (a gradient of length 2, clipped to 1; a GradScaler on the CPU shows what CUDA does):
#   torch 2.14.1+cu130 lightning 2.6.6
#   clipped in training_step: length 1.000000, 0.000977, 0.000015 with scale 1, 1024, 65536
#   clipped in on_before_optimizer_step: length 1.000000, 1.000000, 1.000000 with scale 1, 1024, 65536
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "torch==2.14.1" "numpy<3" "lightning==2.6.6"
cat > "$place/probe.py" <<'PY'
import logging

import lightning
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

logging.disable(logging.WARNING)


class Model(lightning.LightningModule):
    def __init__(self, place):
        super().__init__()
        self.automatic_optimization = False
        self.weight, self.place = nn.Parameter(torch.zeros(4)), place

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward((self.weight * batch[0]).sum())
        if self.place == "training_step":
            self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        optimizer.step()

    def on_before_optimizer_step(self, optimizer):
        if self.place == "on_before_optimizer_step":
            self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        self.length = self.weight.grad.norm().item()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def length(place, scale):
    """Length of the gradient with which the optimizer steps; unclipped it is 2, and the limit is 1."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_steps=1, accelerator="cpu", plugins=plugins, **quiet)
    model = Model(place)
    trainer.fit(model, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(1, 4))))
    return model.length


print("torch", torch.__version__, "lightning", lightning.__version__)
for place in ("training_step", "on_before_optimizer_step"):
    found = [length(place, scale) for scale in (1.0, 1024.0, 65536.0)]
    print(f"clipped in {place}: length {', '.join(f'{value:.6f}' for value in found)} with scale 1, 1024, 65536")
    wanted = (1.0, 1 / 1024, 1 / 65536) if place == "training_step" else (1.0, 1.0, 1.0)
    assert all(abs(value / one - 1) < 1e-3 for value, one in zip(found, wanted, strict=True))
PY
"$place/venv/bin/python" -W ignore "$place/probe.py"
