"""Files of molecules: qm9pack, raw files of PyTorch Geometric, .xyz, .sdf; a parsed copy.

Files of the data set, and their units:

    qm9_part*.csv                                        the package: a row per molecule, elements and coordinates as lists
    gdb9.sdf, gdb9.sdf.csv, uncharacterized.txt          PyTorch Geometric: 133,885 molecules, of which 3,054 are left out
    angstrom; debye, bohr^3, hartree, bohr^2, cal / (mol K)

The package has left out the same molecules, and has no bonds: they follow from the distances, see :func:`estimate_bonds`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np

from tasks.room_renderer import replacing
from tasks.task import DataError

ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
PROPERTIES = ("mu", "alpha", "homo", "lumo", "r2", "zpve", "U0", "U", "H", "G", "cv")
RAW_FILES = ("gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt")

# fmt: off
_PACKAGE_COLUMNS = (
    "Dipole_debye", "Polarizability_bohr3", "HOMO_au", "LUMO_au", "R2_bohr2", "ZPVE_au", "InternalEnergy_0K_au",
    "InternalEnergy_298K_au", "Enthalphy_298K_au", "GibbsFreeEnergy_298K_au", "Heatcapacity_Cv_cal_mol_K",
)
# fmt: on
_RAW_COLUMNS = ("mu", "alpha", "homo", "lumo", "r2", "zpve", "u0", "u298", "h298", "g298", "cv")
_HEADER, _FOOTER = 9, 2  # lines of uncharacterized.txt around the molecules
# angstrom, of single, double and triple bonds: P. Pyykko, M. Atsumi, Chemistry - A European Journal 15, 2009
_RADII = {1: (0.32, 0, 0), 6: (0.75, 0.67, 0.60), 7: (0.71, 0.60, 0.54), 8: (0.63, 0.57, 0.53), 9: (0.64, 0, 0)}
_REACH = 1.17  # of the sum of two radii, up to which a pair is bonded
_RECIPE = 1  # of the parsed copy; to be raised when it changes


@dataclass(frozen=True, eq=False)
class Molecules:
    """M molecules one after the other, with A atoms and E bonds in all.

    Attributes:
        sizes: (M,) numbers of atoms.
        numbers: (A,) atomic numbers.
        positions: (A, 3) in angstrom.
        bond_counts: (M,) numbers of bonds.
        bonds: (E, 3) two atoms of the molecule, from 0 on, and 1, 2, 3 or 4: single, double, triple, aromatic.
        ids: (M,) numbers in GDB-9, from 1 on; rows of a file of a user.
        properties: (M, 11) in the order and the units of the files; (M, 0) without labels.
    """

    sizes: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    bond_counts: np.ndarray
    bonds: np.ndarray
    ids: np.ndarray
    properties: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    def fingerprint(self) -> str:
        """A hash of everything."""
        content = hashlib.blake2b(digest_size=16)
        for field in fields(self):
            content.update(np.ascontiguousarray(getattr(self, field.name)).data)
        return content.hexdigest()

    def nearest(self) -> np.ndarray:
        """(M,) distances of the two nearest atoms of a molecule; NaN of an atom by itself."""
        found = np.full(len(self), np.nan)
        for row, atoms in enumerate(np.split(self.positions.astype(np.float64), np.cumsum(self.sizes)[:-1])):
            if len(atoms) > 1:
                first, second = np.triu_indices(len(atoms), 1)
                found[row] = np.linalg.norm(atoms[first] - atoms[second], axis=1).min()
        return found

    def composition(self) -> np.ndarray:
        """(M, 5) numbers of atoms of H, C, N, O and F."""
        rows = np.repeat(np.arange(len(self)), self.sizes)
        counts = [np.bincount(rows[self.numbers == number], minlength=len(self)) for number in ELEMENTS.values()]
        return np.stack(counts, axis=1)

    def padded(self) -> tuple[np.ndarray, np.ndarray]:
        """Atomic numbers (M, N) and positions (M, N, 3), with zeros after the atoms of a molecule."""
        there = np.arange(max(self.sizes, default=0)) < self.sizes[:, None]
        numbers, positions = np.zeros(there.shape, np.int64), np.zeros((*there.shape, 3), np.float32)
        numbers[there], positions[there] = self.numbers, self.positions
        return numbers, positions

    def padded_bonds(self) -> np.ndarray:
        """(M, N, N) kinds of bonds, 0 without one."""
        width = max(self.sizes, default=0)
        matrix, rows = np.zeros((len(self), width, width), np.uint8), np.repeat(np.arange(len(self)), self.bond_counts)
        first, second, kind = self.bonds.T
        matrix[rows, first, second] = matrix[rows, second, first] = kind
        return matrix


def find_molecules(folders: Sequence[Path]) -> tuple[list[Path], Callable[[], Molecules]] | None:
    """The files of the first folder that has some, and what reads them; ``None`` if none has."""
    for folder in folders:
        if parts := sorted(folder.glob("qm9_part*.csv")):
            return parts, partial(read_package, parts)
        raw = [folder / name for name in RAW_FILES]
        if raw[0].is_file():
            if missing := [file.name for file in raw if not file.is_file()]:
                raise DataError(f"qm9: {raw[0]} is there, but not {missing[0]}; it is part of the same download")
            return raw, partial(read_raw, *raw)
    return None


def read_cached(folder: Path, files: Sequence[Path], read: Callable[[], Molecules]) -> Molecules:
    """What ``read`` returns, from a parsed copy in ``folder`` if there is one of these files.

    The copy is written once and atomically. It is not used if size or time of a file differ, or if it is damaged; where
    nothing can be written, the files are read every time.
    """
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = json.dumps([_RECIPE, stats])
    target = folder / f"qm9-{hashlib.blake2b(stats[0][0].encode(), digest_size=6).hexdigest()}.npz"
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(target) as stored:
        molecules = Molecules(**{field.name: stored[field.name] for field in fields(Molecules)})
        if str(stored["key"]) == key and str(stored["fingerprint"]) == molecules.fingerprint():
            return molecules
    molecules = read()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {field.name: getattr(molecules, field.name) for field in fields(Molecules)}
        with replacing(target) as file:
            np.savez(file, key=key, fingerprint=molecules.fingerprint(), **arrays)
    return molecules


def read_package(parts: Sequence[Path]) -> Molecules:
    """The tables of qm9pack. Raises DataError with file and row if one is damaged."""
    elements, positions, ids, properties = [], [], [], []
    for part in parts:
        with part.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            try:
                for cells in reader:
                    elements.append([ELEMENTS[name] for name in _list(cells["Elements"])])
                    positions.append(np.array(_list(cells["XYZ_Ang"]), np.float64).reshape(len(elements[-1]), 3))
                    ids.append(int(cells["Index"]))
                    properties.append([float(cells[name]) for name in _PACKAGE_COLUMNS])
            except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
                raise DataError(
                    f"qm9: {part}, line {reader.line_num}, is damaged ({_reason(error)}); install qm9pack again"
                ) from None
    if not ids:
        raise DataError(f"qm9: {parts[0]} has no molecules; install qm9pack again")
    return _checked(_joined(elements, positions, ids, properties), parts[0])


def read_raw(sdf: Path, table: Path, uncharacterized: Path) -> Molecules:
    """The raw files of PyTorch Geometric, without the molecules that its reader leaves out.

    Raises DataError naming the file if one is damaged, or if they do not belong together.
    """
    remedy = "download the raw files again"
    try:
        with table.open(newline="", encoding="utf-8") as file:
            properties = np.array([[float(row[name]) for name in _RAW_COLUMNS] for row in csv.DictReader(file)])
        lines = uncharacterized.read_text(encoding="utf-8").split("\n")[_HEADER:-_FOOTER]
        left_out = [int(line.split()[0]) for line in lines]
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise DataError(f"qm9: {table} or {uncharacterized} is damaged ({_reason(error)}); {remedy}") from None
    molecules = read_sdf(sdf)
    if len(molecules) != len(properties):
        raise DataError(f"qm9: {sdf} has {len(molecules):,} molecules and {table} {len(properties):,} rows; {remedy}")
    kept = np.setdiff1d(molecules.ids, left_out)
    return _checked(_chosen(replace(molecules, properties=properties), kept - 1), table)


def read_sdf(path: Path) -> Molecules:
    """Every molecule of an SDF file with V2000 blocks. Raises DataError naming a damaged one."""
    elements, positions, bonds, number = [], [], [], 0
    try:
        for block in _sdf_blocks(path):
            number += 1
            atoms, links = int(block[3][:3]), int(block[3][3:6])
            if not atoms:
                raise ValueError("it has no atoms")
            rows = [(line[:10], line[10:20], line[20:30], line[31:34].strip()) for line in block[4 : 4 + atoms]]
            elements.append([_element(row[3]) for row in rows])
            positions.append(np.array([row[:3] for row in rows], np.float64).reshape(atoms, 3))
            kinds = [(int(line[:3]), int(line[3:6]), int(line[6:9])) for line in block[4 + atoms : 4 + atoms + links]]
            bonds.append(np.array(kinds, np.int64).reshape(links, 3) - (1, 1, 0))
            ends, kind = bonds[-1][:, :2], bonds[-1][:, 2]
            if len(rows) != atoms or not ((ends >= 0) & (ends < atoms)).all():
                raise ValueError("a bond or the block of atoms does not fit the number of atoms")
            if not ((kind >= 1) & (kind <= 4)).all():
                raise ValueError("a bond is none of single, double, triple and aromatic")
    except (ValueError, IndexError) as error:
        raise DataError(f"{path}, molecule {number}: {_reason(error)}; SDF with V2000 is read") from None
    if not elements:
        raise DataError(f"{path} has no molecules; an SDF file separates them by $$$$")
    return _joined(elements, positions, range(1, len(elements) + 1), None, bonds)


def read_xyz(path: Path) -> Molecules:
    """Every molecule of an XYZ file.

    Each has its number of atoms, a comment, and lines of element, x, y, z in angstrom. Further columns, and lines between
    one molecule's atoms and the next number of atoms, are ignored, unless they are atoms. Raises DataError with the line that
    is damaged.
    """
    elements: list[list[int]] = []
    positions, line = [], 0
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        while line < len(lines):
            if not lines[line].strip().isdecimal():
                if not elements:
                    raise ValueError(f"a number of atoms is expected, got {lines[line]!r}")
                if _ATOM_LINE.match(lines[line]):
                    raise ValueError(f"another atom, after the {len(elements[-1])} that the molecule is said to have")
                line += 1
                continue
            atoms, start = int(lines[line]), line + 2
            if not atoms:
                raise ValueError("a molecule has at least one atom, got 0")
            elements.append([])
            rows = np.zeros((atoms, 3))
            for place in range(atoms):
                line = start + place
                if line >= len(lines):
                    raise ValueError(f"the molecule is said to have {atoms} atoms, but the file ends after {place}")
                name, *cells = lines[line].split() or [""]
                if len(cells) < 3:
                    raise ValueError(f"an element, x, y and z are expected, got {lines[line]!r}")
                elements[-1].append(_element(name))
                rows[place] = [float(cell.replace("*^", "e")) for cell in cells[:3]]
            positions.append(rows)
            line = start + atoms
    except (ValueError, IndexError) as error:
        raise DataError(f"{path}, line {line + 1}: {_reason(error)}") from None
    if not elements:
        raise DataError(f"{path} has no molecules; an XYZ file begins with a number of atoms")
    return _joined(elements, positions, range(1, len(elements) + 1), None)


def estimate_bonds(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(M, N, N) kinds of bonds of padded molecules, by their lengths.

    0 without one, 1 single, 2 double, 3 triple. A pair is bonded up to 1.17 times the sum of the covalent radii, as the kind whose sum of radii is nearest; bonds of
    aromatic rings mostly count as double. P. Pyykko, M. Atsumi, "Molecular Double-Bond Covalent Radii for Elements
    Li-E112" and "Molecular Single-Bond Covalent Radii for Elements 1-118", Chemistry - A European Journal 2009.
    """
    radii = np.full((max(ELEMENTS.values()) + 1, 3), np.nan, np.float32)
    for number, each in _RADII.items():
        radii[number, : 1 if not each[1] else 3] = each[: 1 if not each[1] else 3]
    found = []
    for start in range(0, len(numbers), 4096):
        part, place = numbers[start : start + 4096], positions[start : start + 4096]
        distance = np.sqrt(np.square(place[:, :, None] - place[:, None]).sum(-1))
        sums = radii[part][:, :, None] + radii[part][:, None]  # NaN where one cannot be double, or is no atom
        kinds = 1 + np.nan_to_num(np.abs(distance[..., None] - sums), nan=np.inf).argmin(-1)
        bonded = distance <= _REACH * sums[..., 0]
        bonded[:, range(part.shape[1]), range(part.shape[1])] = False
        found.append(np.where(bonded, kinds, 0).astype(np.uint8))
    return np.concatenate(found) if found else np.zeros((0, 0, 0), np.uint8)


def _joined(
    elements: Sequence[Sequence[int]],
    positions: Sequence[np.ndarray],
    ids: Sequence[int],
    properties: Sequence[Sequence[float]] | None,
    bonds: Sequence[np.ndarray] | None = None,
) -> Molecules:
    """Molecules from lists with an item each; without bonds, these are estimated."""
    sizes = np.array([len(each) for each in elements])
    none = np.zeros((0, 3), np.uint8)
    if not sizes.all():
        raise DataError(f"molecule {1 + int(sizes.argmin())} has no atoms")
    molecules = Molecules(
        sizes,
        np.concatenate([np.array(each, np.uint8) for each in elements]),
        np.concatenate(positions).astype(np.float32),
        np.array([len(each) for each in bonds or [none] * len(sizes)]),
        none if bonds is None else np.concatenate(bonds).astype(np.uint8),
        np.array(ids),
        np.zeros((len(sizes), 0)) if properties is None else np.array(properties),
    )
    if bonds is not None:
        return molecules
    rows, first, second = np.triu(matrix := estimate_bonds(*molecules.padded())).nonzero()
    found = np.stack([first, second, matrix[rows, first, second]], axis=1).astype(np.uint8)
    return replace(molecules, bond_counts=np.bincount(rows, minlength=len(sizes)), bonds=found)


def _chosen(molecules: Molecules, rows: np.ndarray) -> Molecules:
    """The molecules in ``rows``, in the order of the file."""
    kept = np.isin(np.arange(len(molecules)), rows)
    atoms, bonds = np.repeat(kept, molecules.sizes), np.repeat(kept, molecules.bond_counts)
    per_atom = {"numbers": atoms, "positions": atoms, "bonds": bonds}
    return Molecules(**{f.name: getattr(molecules, f.name)[per_atom.get(f.name, kept)] for f in fields(Molecules)})


def _checked(molecules: Molecules, source: Path) -> Molecules:
    """The same. Raises DataError for numbers that are not finite, or a molecule twice."""
    if not (np.isfinite(molecules.properties).all() and np.isfinite(molecules.positions).all()):
        raise DataError(f"qm9: {source} has numbers that are not finite; get the files again")
    if len(np.unique(molecules.ids)) < len(molecules):
        raise DataError(f"qm9: {source} has a molecule twice; get the files again")
    return molecules


def _list(cell: str) -> list[str]:
    """Items of a list, or of a list of lists, as Python prints it."""
    return cell.translate(_BRACKETS).split(",")


_BRACKETS = str.maketrans("", "", "[]' ")
_ATOM_LINE = re.compile(r"\s*[A-Z][a-z]?(\s+[-+]?\d*\.?\d+\S*){3}")


def _element(name: str) -> int:
    if name not in ELEMENTS:
        raise ValueError(f"molecules of H, C, N, O and F are known, got an atom {name!r}")
    return ELEMENTS[name]


def _sdf_blocks(path: Path) -> Iterator[list[str]]:
    block: list[str] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("$$$$"):
                yield block
                block = []
            else:
                block.append(line.rstrip("\n"))
    if any(map(str.strip, block)):  # a file for one molecule may end without the mark
        yield block


def _reason(error: Exception) -> str:
    return f"no column {error}" if isinstance(error, KeyError) else str(error) or "it ends too early"
