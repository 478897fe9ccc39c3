"""CelebA: 202,599 faces with forty binary attributes each, a benchmark of many objectives.

Every attribute is an objective of its own. It has two classes, ``no`` and ``yes``, and its loss is the binary
cross-entropy of the difference of their logits. The official partition gives 162,770 / 19,867 / 19,962 images. Faces
are aligned, 178x218 pixels, and are stretched to 64x64 with colors in [0, 1] and no augmentation, as in the
published multi-task experiments.

Z. Liu, P. Luo, X. Wang, X. Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from balancing.registry import suggestion
from tasks.criteria import CrossEntropy
from tasks.file_checks import check_regular
from tasks.image_reading import ImageFiles, View, check_images
from tasks.metrics import metric
from tasks.registry import register_task
from tasks.table_files import TextTable
from tasks.table_splits import kept_fingerprint
from tasks.task import DataError, Objective, Splits, Task, TensorData

# fmt: off
ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache",
    "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks",
    "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick",
    "Wearing_Necklace", "Wearing_Necktie", "Young",
)
# fmt: on
# folders of attributes, partition and images: torchvision's tree, and that of the official download
_TREES = (("", "", ""), ("Anno", "Eval", "Img"))


@register_task("celeba")
class CelebA(Task):
    """Forty attributes of a face, each an objective.

    Args:
        attributes: Some of the forty, for fewer objectives; all of them if ``None``.
        image_size: Height and width that faces are stretched to.
        flip: Probability of mirroring a training image.

    Raises:
        ValueError: An attribute that there is not, or named twice; a value out of range.
    """

    def __init__(self, attributes: Sequence[str] | None = None, image_size: int = 64, flip: float = 0.0) -> None:
        names = ATTRIBUTES if attributes is None else tuple(attributes)
        for name in names:
            if name not in ATTRIBUTES:
                near = suggestion(name, ATTRIBUTES, "choose from {}")
                raise ValueError(f"celeba: there is no attribute {name!r}; {near}")
        if not names or len(set(names)) < len(names):
            raise ValueError("celeba: name at least one attribute, and none of them twice")
        self.view = View(image_size, "stretch", flip, standardize=False)
        metrics = {"accuracy": metric("classification.BinaryAccuracy"), "f1": metric("classification.BinaryF1Score")}
        self.objectives = tuple(Objective(name, CrossEntropy(("no", "yes")), metrics) for name in names)
        heads = {"classifiers": dict.fromkeys(names, 2), "regressors": {}}
        self.info = {"in_channels": 3, "image_size": image_size, **heads}

    def load(self, data_dir: Path) -> Splits:
        """Read attributes and partition, in any public layout.

        They lie in ``data_dir`` or in a folder celeba in it.
        """
        attributes, partition, folder = _find(data_dir)
        names, labels = _attributes(attributes)
        parts = _partition(partition, names, attributes)
        suffix = ".png" if folder.name.endswith("_png") else ".jpg"
        files = [Path(name).stem + suffix for name in names]
        there = {path.name for path in folder.iterdir()}
        missing = [file for file in files if file not in there]
        if missing:
            raise DataError(
                f"celeba: {folder} lacks {len(missing):,} of the {len(files):,} images in {attributes}, first {missing[0]}; "
                "unpack the archive of images again"
            )
        columns = {o.name: torch.from_numpy(labels[:, ATTRIBUTES.index(o.name)]) for o in self.objectives}
        for name, column in columns.items():
            if column[parts == 0].unique().numel() < 2:
                raise DataError(f"celeba: {name} is the same for every training image of {attributes}; is it complete?")

        codes = [row.tobytes().hex() for row in np.packbits(np.stack([*map(np.asarray, columns.values())], 1), axis=1)]
        facts = {"image": files, "split": [str(part) for part in parts], "attributes": codes}
        listing = TextTable.of_columns("celeba", str(folder), facts, "image")
        seen = kept_fingerprint(listing, self._state.get("table"), another=False)
        check_images(
            "celeba",
            [str(folder / file) for file in files],
            data_dir / ".checked",
            "unpack the archive of images again",
        )

        def part(number: int) -> ImageFiles:
            index = torch.from_numpy(parts == number).nonzero().flatten()
            paths = [str(folder / files[i]) for i in index.tolist()]
            targets = {name: column[index] for name, column in columns.items()}
            return ImageFiles(paths, targets, self.view, augment=number == 0)

        return Splits(part(0), part(1), part(2), state={"table": seen})

    def preprocess(self, path: Path) -> TensorData:
        """One face, aligned and cut out like those of the set."""
        return TensorData((self.view.tensor(path)[None],), {})


def _find(data_dir: Path) -> tuple[Path, Path, Path]:
    """Attribute file, partition file and folder of images. Raises DataError if one is missing."""
    roots = (data_dir / "celeba", data_dir / "CelebA", data_dir)
    for root in roots:
        for anno, evaluation, images in _TREES:
            attributes = _first_file(root / anno / "list_attr_celeba")
            partition = _first_file(root / evaluation / "list_eval_partition")
            folders = [root / images / name for name in ("img_align_celeba", "img_align_celeba_png")]
            if not attributes.is_file():
                continue
            start = f"celeba: {attributes} is there, but not"
            if not partition.is_file():
                raise DataError(f"{start} {partition}; it is part of the same download")
            for folder in folders:
                if folder.is_dir():
                    inner = folder / folder.name  # Kaggle's archive has it twice
                    return attributes, partition, inner if inner.is_dir() else folder
            raise DataError(f"{start} the images in {folders[0]}; unpack img_align_celeba.zip there")
    raise DataError(
        f"celeba: no list_attr_celeba.txt in {', '.join(str(root) for root in roots)}, nor in a folder Anno there, nor a .csv of this "
        f"name; download Anno, Eval and Img from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html to {roots[0]}, or set data_dir"
    )


def _first_file(stem: Path) -> Path:
    """``.txt`` as published, or ``.csv`` as on Kaggle; the former if there is none."""
    text, table = stem.with_suffix(".txt"), stem.with_suffix(".csv")
    return table if table.is_file() and not text.is_file() else text


def _attributes(path: Path) -> tuple[list[str], np.ndarray]:
    """File names, and labels (N, 40) that are 0 or 1."""
    lines = _lines(path)
    table = path.suffix == ".csv"
    header = lines[0].split(",")[1:] if table else " ".join(lines[1:2]).split()
    above = 1 if table else 2
    if tuple(header) != ATTRIBUTES or not (table or re.fullmatch(r"\d{1,12}", lines[0].strip(), re.ASCII)):
        begin = "the names of the forty attributes" if table else "a number of images and the forty attributes"
        raise DataError(f"celeba: {path} does not begin with {begin}; it is another file")
    if not table and int(lines[0]) != len(lines) - 2:
        raise DataError(
            f"celeba: {path} says {int(lines[0]):,} images and has {len(lines) - 2:,}; it is incomplete, download it again"
        )
    names, labels = [], np.empty((len(lines) - above, len(ATTRIBUTES)), np.int64)
    signs = {"1": 1, "-1": 0}
    for row, line in enumerate(lines[above:]):
        name, *values = line.replace(",", " ").split() or [""]
        if len(values) != len(ATTRIBUTES) or not signs.keys() >= set(values):
            raise DataError(
                f"celeba: {path}, line {row + above + 1}: a file name and forty times 1 or -1 are expected; download it again"
            )
        names.append(name)
        labels[row] = [signs[value] for value in values]
    return names, labels


def _partition(path: Path, names: Sequence[str], attributes: Path) -> np.ndarray:
    """0, 1 or 2 for each image: train, val or test."""
    numbers = {}
    for row, line in enumerate(_lines(path)):
        cells = line.replace(",", " ").split()
        if row == 0 and cells == ["image_id", "partition"]:
            continue
        if len(cells) != 2 or cells[1] not in ("0", "1", "2"):
            raise DataError(
                f"celeba: {path}, line {row + 1}: a file name and 0, 1 or 2 are expected; download it again"
            )
        numbers[cells[0]] = int(cells[1])
    different = sorted(set(names) ^ set(numbers))
    if different:
        raise DataError(
            f"celeba: {path} and {attributes} do not name the same images, first {different[0]}; download both again"
        )
    parts = np.array([numbers[name] for name in names])
    for number, name in enumerate(("train", "val", "test")):
        if not (parts == number).any():
            raise DataError(f"celeba: {path} has no image of the split {name!r} ({number}); download it again")
    return parts


def _lines(path: Path) -> list[str]:
    """Lines that are not empty."""
    try:
        check_regular(path)
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()] or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"celeba: {path} cannot be read ({error}); download it again") from None
