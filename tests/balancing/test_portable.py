"""The folder of the library works anywhere, under any name, with nothing but torch."""

import shutil
import subprocess
import sys
from pathlib import Path

import balancing

STEP = """
import sys, torch
from elsewhere import BilevelBalancer, Composed, create_balancer

names = {names!r}
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))

def losses(net):
    out = net(torch.ones(5, 3))
    return {{"a": out[:, 0].square().mean() + 1, "b": (out[:, 1] - 1).square().mean()}}

for name in names:
    model.zero_grad()
    balancer = create_balancer(name, ("a", "b"))
    if isinstance(balancer, BilevelBalancer):
        report = balancer.meta_backward(model, losses, losses, lr=0.1)
    else:
        report = balancer.backward(losses(model))
    assert model[0].weight.grad.abs().max() > 0, name
    assert report.losses.isfinite().all(), name
    print(name if isinstance(name, str) else "+".join(name), type(balancer).__mro__[1].__name__)
assert "balancing" not in sys.modules
"""
#: A method of each kind -> the class that it derives from.
KINDS = {
    "sum": "ScheduleBalancer",
    "realtime": "LossBalancer",
    "uncertainty": "Scalarization",
    "mgda": "GramianBalancer",
    "graddrop": "JacobianBalancer",
    "excess_mtl": "RowBalancer",
    "auto_lambda": "BilevelBalancer",
    ("uncertainty", "pcgrad"): "Balancer",
}


def test_a_copy_under_another_name_takes_a_step_with_every_kind(tmp_path):
    shutil.copytree(
        Path(balancing.__file__).parent, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "step.py").write_text(STEP.format(names=list(KINDS)))
    # a script's folder is the first on its path; -E leaves out PYTHONPATH, and no package is installed by the name
    done = subprocess.run(
        [sys.executable, "-E", "step.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    expected = [f"{name if isinstance(name, str) else '+'.join(name)} {kind}" for name, kind in KINDS.items()]
    assert done.stdout.splitlines() == expected
