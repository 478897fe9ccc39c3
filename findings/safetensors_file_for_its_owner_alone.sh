#!/usr/bin/env bash
# safetensors 0.8.0: save_file leaves a file that its owner alone may read, whatever the umask says and whatever the file was before.
#
# With umask 022, open() makes files that everybody may read, and so does torch.save. safetensors.torch.save_file writes a temporary
# file of mode 0600 in the same folder and renames it, so the result is 0600, also where a file of mode 0644 was replaced.
# Weights in a shared folder can then be read by nobody else, beside a config.json that everybody can read.
#
# Why one guesses wrong: the file is opened by its name in all examples, and writing to a file that exists keeps its mode.
#
# Output seen:
#   safetensors 0.8.0
#   torch.save: 0o644
#   save_file, a new file: 0o600
#   save_file over a file of mode 0o644: 0o600
#   bytes of safetensors.torch.save, written by open(): 0o644
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "safetensors==0.8.0" "torch==2.14.1" "numpy<3" packaging
cat > "$place/probe.py" <<'PY'
import os
import stat
import sys

import safetensors
import torch
from safetensors.torch import save, save_file

os.umask(0o022)
os.chdir(sys.argv[1])
tensors = {"x": torch.zeros(3)}


def mode(name):
    return oct(stat.S_IMODE(os.stat(name).st_mode))


torch.save(tensors, "a.pt")
save_file(tensors, "new")
open("old", "wb").close()
before = mode("old")
save_file(tensors, "old")
with open("bytes", "wb") as file:
    file.write(save(tensors))
print("safetensors", safetensors.__version__)
print("torch.save:", mode("a.pt"))
print("save_file, a new file:", mode("new"))
print(f"save_file over a file of mode {before}:", mode("old"))
print("bytes of safetensors.torch.save, written by open():", mode("bytes"))
assert [mode(name) for name in ("a.pt", "new", "old", "bytes")] == ["0o644", "0o600", "0o600", "0o644"]
PY
"$place/venv/bin/python" "$place/probe.py" "$place"
