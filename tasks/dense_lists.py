"""NYUD-MT and PASCAL-Context in a folder per map, with lists of names.

    <root>/{images,segmentation,depth,normals,edge}/<name>.{jpg,png,npy}, gt_sets/{train,val}.txt              NYUD-MT
    <root>/{JPEGImages,semseg/...,sal_distill,normals_distill}/<name>.{jpg,png}, ImageSets/Context/*.txt       PASCAL-Context

K. Maninis et al., "Attentive Single-Tasking of Multiple Tasks", CVPR 2019; S. Vandenhende et al., "Multi-Task Learning for Dense
Prediction Tasks: A Survey", TPAMI 2022. The list ``val`` is the test split, and a part of ``train`` validates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.dense_folders import check_validation, find_set, held_out_splits
from tasks.dense_task import DenseTask
from tasks.map_files import MapFiles
from tasks.map_formats import MapFormat, map_format
from tasks.maps import read_image
from tasks.registry import register_task
from tasks.task import DataError, Splits

# fmt: off
NYU40_CLASSES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter", "blinds",
    "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books", "refrigerator",
    "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp",
    "bathtub", "bag", "other structure", "other furniture", "other prop",
)
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)
# fmt: on


class ListedTask(DenseTask):
    """Base of sets with lists of names. A subclass sets the class attributes.

    Args:
        root: Folder of the set; ``null``: in ``data_dir``.
        height: Samples of another size are resized.
        width: Samples of another size are resized.
        augment: Zoom and mirror training pictures.
        jitter: Largest relative change of brightness and contrast in training.
        validation: Share of the training pictures held out to select on; 0 selects on the test pictures, as public code.
        criteria: Map -> criterion, where it is not the usual one.
    """

    places: Sequence[str] = ()  # names of the set's folder
    images = ""
    lists = ""
    described: Mapping[
        str, Mapping[str, Any]
    ] = {}  # map -> format, whose ``folder`` may be several, of which the first is taken
    source = ""

    def __init__(
        self,
        root: str | None = None,
        height: int = 480,
        width: int = 640,
        augment: bool = True,
        jitter: float = 0.0,
        validation: float = 0.1,
        criteria: Mapping[str, Any] | None = None,
    ) -> None:
        if min(height, width) < 1:
            raise ValueError(f"{self.name}: height and width must be at least 1, got {height} and {width}")
        self.formats: dict[str, MapFormat] = {name: map_format(name, form) for name, form in self.described.items()}
        kinds = {name: form.kind for name, form in self.formats.items()}
        super().__init__("pooled", augment, jitter, kinds, criteria=criteria)
        self.root, self.size, self.validation = root, (height, width), check_validation(validation)

    def load(self, data_dir: Path) -> Splits:
        """Find the set and check its files."""
        places = [Path(self.root)] if self.root else [data_dir / name for name in self.places]
        root = find_set(self.name, places, (self.images,), self.source)
        train, test = (self._folder(root, part) for part in ("train", "val"))
        return held_out_splits(self, train, test, self.validation, data_dir, self.size)

    def _folder(self, root: Path, part: str) -> MapFiles:
        listed = root / self.lists / f"{part}.txt"
        try:
            names = listed.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.name}: cannot read {listed} ({error}); unpack the set again") from None
        if not names:
            raise DataError(f"{self.name}: {listed} names no pictures; unpack the set again")
        rows = []
        for name in names:
            row = {"image": root / self.images / f"{name}.jpg"}
            for key, form in self.formats.items():
                files = [
                    root / folder / f"{name}{ending}"
                    for folder in form.folder.split("|")
                    for ending in (".png", ".npy")
                ]
                row[key] = next((file for file in files if file.is_file()), files[0])
            for path in row.values():
                if not path.is_file():
                    raise DataError(f"{self.name}: {path} is missing, but {listed} names it; unpack the set again")
            rows.append(row)
        reads = {"image": read_image, **{key: form.read for key, form in self.formats.items()}}
        return MapFiles(rows, reads, self.maps)


@register_task("nyud")
class NYUD(ListedTask):
    """Segmentation (40 classes), depth, normals and edges of indoor pictures, NYUD-MT.

    795 pictures to train on, and 654 to test on. Arguments are those of :class:`ListedTask`.
    """

    places = ("NYUD_MT", "nyud")
    images, lists = "images", "gt_sets"
    described = {
        "segmentation": {"kind": "classes", "classes": NYU40_CLASSES, "first": 1, "void": 0},
        "depth": {"kind": "depth"},
        "normals": {"kind": "normals"},
        "edges": {"kind": "binary", "folder": "edge", "void": 255},
    }
    source = "https://github.com/SimonVandenhende/Multi-Task-Learning-PyTorch (NYUD-MT)"


@register_task("pascal_context")
class PascalContext(ListedTask):
    """Segmentation (21 classes), saliency and normals of PASCAL-Context.

    4,998 pictures to train on, and 5,105 to test on. Saliency and normals are what other networks predicted. Differs from public
    code in that normals count for all classes, and in that human parts and edges, which lie in files of MATLAB, are left out.
    Arguments are those of :class:`ListedTask`.
    """

    places = ("PASCAL_MT", "pascal_context")
    images, lists = "JPEGImages", "ImageSets/Context"
    described = {
        "segmentation": {
            "kind": "classes",
            "classes": VOC_CLASSES,
            "folder": "semseg/VOC12|semseg/pascal-context",
        },
        "saliency": {"kind": "binary", "folder": "sal_distill", "threshold": 127.5},
        "normals": {"kind": "normals", "folder": "normals_distill", "normalize": True},
    }
    source = "https://github.com/facebookresearch/astmt (PASCAL_MT.tgz)"
