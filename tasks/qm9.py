"""QM9: eleven properties of small organic molecules, a benchmark of many regressions.

130,831 molecules of up to nine atoms of C, N, O and F, in equilibrium, with properties from density functional theory
(B3LYP / 6-31G(2df,p)); 3,054 of the original 133,885, whose geometry contradicts their bonds, are left out as in all published
tables. The files are those of the package qm9pack, or the raw ones of PyTorch Geometric in ``data_dir``; both give the same
molecules in the same order.

    mu      dipole moment                     debye     U0, U, H, G   atomization energies: of the molecule, minus that of
    alpha   polarizability                    bohr^3                  its atoms by themselves; U0 at 0 K, U (energy),
    homo    energy of that orbital            meV                     H (enthalpy) and G (free energy) at 298.15 K; meV
    lumo    energy of that orbital            meV       cv            heat capacity at 298.15 K, cal / (mol K)
    r2      spread of the electrons           bohr^2
    zpve    zero-point vibrational energy     meV

Targets are standardized with the training molecules. The protocol of the published tables (Nash-MTL, FAMO, LibMTL) shuffles,
tests on the first 10,000, validates on the next 10,000 and trains on the rest: ``task.train=null task.val=10000``.

R. Ramakrishnan et al., "Quantum Chemistry Structures and Properties of 134 Kilo Molecules", Scientific Data 2014.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.criteria import SquaredError
from tasks.metrics import absolute_error
from tasks.molecule_files import PROPERTIES, Molecules, find_molecules, read_cached, read_sdf, read_xyz
from tasks.registry import register_task
from tasks.task import Batch, DataError, Objective, Splits, Task, TensorData

UNITS = ("D", "bohr^3", "meV", "meV", "bohr^2", "meV", "meV", "meV", "meV", "meV", "cal/(mol K)")
MEV = 27211.386245988  # in a hartree, CODATA 2018
#: Energies of single atoms H, C, N, O and F in hartree, from the data set's paper: at 0 K, and U, H, G at 298.15 K.
ATOMS = {
    "U0": (-0.500273, -37.846772, -54.583861, -75.064579, -99.718730),
    "U": (-0.498857, -37.845355, -54.582445, -75.063163, -99.717314),
    "H": (-0.497912, -37.844411, -54.581501, -75.062219, -99.716370),
    "G": (-0.510927, -37.861317, -54.598897, -75.079532, -99.733544),
}
_NEAREST = (0.5, 1.7)  # angstrom, of the two nearest atoms; other units are outside


@dataclass(frozen=True)
class MoleculeData(TensorData):
    """Molecules padded to the largest of all; a batch is as wide as its own largest.

    Inputs: atomic numbers (B, N), positions (B, N, 3), and kinds of bonds (B, N, N) if there are any.
    """

    def batch(self, index: Tensor) -> Batch:
        """The rows of ``index`` (B,)."""
        (numbers, positions, *bonds), targets = super().batch(index)
        width = int((numbers > 0).sum(1).max())
        trimmed = (numbers[:, :width], positions[:, :width], *(each[:, :width, :width] for each in bonds))
        return Batch(trimmed, targets)


@register_task("qm9")
class QM9(Task):
    """Eleven properties of a molecule from its atoms and their positions.

    Args:
        train: Number of molecules to train on; all that are left if ``None``.
        val: Number of molecules to select on.
        test: Number of molecules to test on.
        seed: Of the split.
        bonds: Give the kinds of the bonds too, for models that read them. Without a bond table in the files they follow
            from lengths, see :func:`tasks.molecule_files.estimate_bonds`.
        root: Folder of the files; ``None``: ``data_dir`` or qm9, qm9/raw, QM9/raw in it, or the package qm9pack.
    """

    data_source = "the molecules of QM9, as in the package qm9pack (MIT)"

    def __init__(
        self,
        train: int | None = 10000,
        val: int = 2000,
        test: int = 10000,
        seed: int = 0,
        bonds: bool = False,
        root: str | None = None,
    ) -> None:
        if min(1 if train is None else train, val, test) < 1:
            raise ValueError(f"qm9: train, val and test must be at least 1, got {train}, {val} and {test}")
        if not 0 <= seed < 2**32:
            raise ValueError(f"qm9: seed must be in [0, 2^32), got {seed}")
        self.counts, self.seed, self.bonds, self.root = (train, val, test), seed, bonds, root
        self.info = {"classifiers": {}, "regressors": dict.fromkeys(PROPERTIES, 1)}
        self.objectives = self._make_objectives(np.zeros(len(PROPERTIES)), np.ones(len(PROPERTIES)))

    def _make_objectives(self, mean: np.ndarray, std: np.ndarray) -> tuple[Objective, ...]:
        def objective(name: str, unit: str, mean: float, std: float) -> Objective:
            # errors do not depend on the mean, and energies are large beside them
            error = {"mae": absolute_error(partial(_rescaled, mean=0.0, std=std))}
            criterion = SquaredError(f"{name}, standardised", complete=True)
            return Objective(name, criterion, error, partial(_rescaled, mean=mean, std=std), unit)

        columns = zip(PROPERTIES, UNITS, map(float, mean), map(float, std), strict=True)
        return tuple(objective(*column) for column in columns)

    def load(self, data_dir: Path) -> Splits:
        """Read the molecules and split them."""
        molecules = self._read(data_dir)
        train, val, test = self._rows(len(molecules))
        labels, print_ = targets(molecules), molecules.fingerprint()
        if self._state and self._state["molecules"] != print_:
            raise DataError(
                "qm9: the files hold other molecules than those of the run, or others' digits; it was trained on "
                "qm9pack or on the raw files of PyTorch Geometric, and the same files are needed"
            )
        state = self._state or {
            "mean": labels[train].mean(0).tolist(),
            "std": labels[train].std(0).tolist(),
            "molecules": print_,
        }
        if not min(state["std"]) > 0:
            raise DataError("qm9: a property is the same for all training molecules, so there is nothing to learn")
        scaled = torch.tensor((labels - state["mean"]) / state["std"], dtype=torch.float32)
        inputs = self._inputs(molecules)

        def part(rows: np.ndarray) -> MoleculeData:
            index = torch.from_numpy(rows)
            columns = scaled[index].split(1, dim=1)
            return MoleculeData(tuple(each[index] for each in inputs), dict(zip(PROPERTIES, columns, strict=True)))

        return Splits(part(train), part(val), part(test), state=state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over means and deviations of the training molecules."""
        super().load_state_dict(state)
        self._update_objectives(self._make_objectives(state["mean"], state["std"]))

    def preprocess(self, path: Path) -> TensorData:
        """The molecules of an ``.xyz`` or ``.sdf`` file; a row for each."""
        suffix = Path(path).suffix.lower()
        if suffix not in (".xyz", ".sdf"):
            raise DataError(
                f"qm9: {path} is no .xyz or .sdf file; properties depend on the positions of the atoms, which a SMILES does "
                "not have: a program such as RDKit or Open Babel makes an .sdf of one"
            )
        molecules = read_xyz(path) if suffix == ".xyz" else read_sdf(path)
        if not np.isfinite(molecules.positions).all():
            raise DataError(f"qm9: {path} has positions that are not finite")
        nearest = molecules.nearest()
        if len(wrong := np.flatnonzero((nearest < _NEAREST[0]) | (nearest > _NEAREST[1]))):
            raise DataError(
                f"qm9: {path}, molecule {wrong[0] + 1}: its two nearest atoms are {nearest[wrong[0]]:.3g} angstrom apart, but "
                f"in molecules these are {_NEAREST[0]} to {_NEAREST[1]} apart; positions must be in angstrom"
            )
        return MoleculeData(self._inputs(molecules), {})

    def _read(self, data_dir: Path) -> Molecules:
        folders = [data_dir / name for name in ("qm9", "qm9/raw", "QM9/raw", "raw", "")]
        if self.root is None:
            package = find_spec("qm9pack")
            folders += [Path(place, "data") for place in (package and package.submodule_search_locations) or ()]
        found = find_molecules([Path(self.root)] if self.root else folders)
        if found is None:
            raise DataError(
                f"qm9: neither qm9_part1.csv nor gdb9.sdf is in {self.root or folders[0]}, and the package qm9pack is not "
                'installed; pip install "mozoo[molecules]" brings it (104 MB)'
            )
        return read_cached(data_dir / ".parsed", *found)

    def _rows(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row numbers of train, val and test."""
        # RandomState, unlike Generator, draws the same numbers in every NumPy version
        order = np.random.RandomState(self.seed).permutation(count)
        train, val, test = self.counts
        left = count - val - test
        if left < (train or 1):
            raise DataError(
                f"qm9: {count:,} molecules are too few for train={train}, val={val} and test={test}; lower these numbers"
            )
        rest = order[test + val :]
        return rest[:train], order[test : test + val], order[:test]

    def _inputs(self, molecules: Molecules) -> tuple[Tensor, ...]:
        bonds = (molecules.padded_bonds(),) if self.bonds else ()
        return tuple(map(torch.from_numpy, (*molecules.padded(), *bonds)))


def targets(molecules: Molecules) -> np.ndarray:
    """(M, 11) properties in the units of the published tables, energies as atomization energies."""
    values, counts = molecules.properties.copy(), molecules.composition()
    for column, (name, unit) in enumerate(zip(PROPERTIES, UNITS, strict=True)):
        values[:, column] -= counts @ np.array(ATOMS.get(name, (0.0,) * 5))
        values[:, column] *= MEV if unit == "meV" else 1.0
    return values


def _rescaled(values: Tensor, mean: float, std: float) -> Tensor:
    return values * std + mean
