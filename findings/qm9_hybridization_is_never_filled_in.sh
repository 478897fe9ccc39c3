#!/usr/bin/env bash
# torch_geometric 2.8.1, rdkit 2026.9.1: four of the eleven node features of QM9 are 0 for every atom of every molecule.
#
# QM9 describes an atom by 11 numbers "from the Neural Message Passing paper", among them whether it is aromatic and whether it is
# hybridized as sp, sp2 or sp3. They are asked of molecules that are read with sanitize=False, for which rdkit perceives neither
# aromatic rings nor hybridization, so the columns 6 to 9 of x are 0, even for the carbons of benzene. The files have alternating
# single and double bonds, so the fourth kind of edge, aromatic, does not occur either.
#
# Why one guesses wrong: the columns are in the published networks (lin0 has 11 inputs), and other readers of the data set fill
# them in; a network that is trained on such features and evaluated on these, or the reverse, gives other numbers silently.
#
# Output seen:
#   torch_geometric 2.8.1, rdkit 2026.09.1
#   carbon of benzene: [0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 1]
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "torch==2.14.1" "torch_geometric==2.8.1" "rdkit==2026.9.1" "numpy<3"
cat > "$place/probe.py" <<'PY'
import pathlib
import sys

import rdkit
import torch_geometric
from torch_geometric.datasets import QM9

print(f"torch_geometric {torch_geometric.__version__}, rdkit {rdkit.__version__}")
atoms = [("C", 1.39, 0.0), ("C", 0.695, 1.204), ("C", -0.695, 1.204), ("C", -1.39, 0.0), ("C", -0.695, -1.204), ("C", 0.695, -1.204)]
atoms += [("H", 1.78 * x, 1.78 * y) for _, x, y in atoms]
bonds = [(k + 1, (k + 1) % 6 + 1, 1 + k % 2) for k in range(6)] + [(k + 1, k + 7, 1) for k in range(6)]
lines = ["gdb_1", "", "", f"{len(atoms):3}{len(bonds):3}  0  0  0  0            999 V2000"]
lines += [f"{x:10.4f}{y:10.4f}{0:10.4f} {name:<3} 0  0" for name, x, y in atoms]
lines += [f"{a:3}{b:3}{kind:3}  0" for a, b, kind in bonds]
raw = pathlib.Path(sys.argv[1], "raw")
raw.mkdir(parents=True)
(raw / "gdb9.sdf").write_text("\n".join([*lines, "M  END", "$$$$", ""]))
(raw / "gdb9.sdf.csv").write_text("mol_id," + ",".join("abcdefghijklmnopqrs") + "\ngdb_1," + ",".join(["1.0"] * 19) + "\n")
(raw / "uncharacterized.txt").write_text("\n".join([*("-" * 9), "", ""]))
x = QM9(sys.argv[1])[0].x
print("carbon of benzene:", x[0].int().tolist())
assert x.shape == (12, 11)
assert (x[:, 6:10] == 0).all(), "aromatic, sp, sp2 or sp3 are filled in now"
assert x[0].tolist() == [0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 1]
PY
"$place/venv/bin/python" -W ignore "$place/probe.py" "$place/qm9" 2> "$place/errors" || { cat "$place/errors"; exit 1; }
