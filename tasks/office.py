"""Office-31 and Office-Home: the same classes in several domains; multi-input learning.

    inputs  (amazon (B, 3, H, W), dslr (B, 3, H, W), webcam (B, 3, H, W))    one image and label per domain
               |                    |                  |
               |------------------> trunk <------------|                    one model, applied to each domain by itself
               v                    v                  v
             head amazon          head dslr          head webcam

Every domain is an objective: classify its own images. So a sample holds one image of each domain, which have nothing
to do with each other. An epoch is one pass over the largest domain; the smaller ones are repeated, in a new order
every epoch. When a split is evaluated every image counts once, and places that a small domain cannot fill are masked.

The task passes each domain through the model by itself, so that any model for one image will do: it needs
``features(image)`` and a head for each domain, and of each domain's outputs only those of its own head are used. Batch
normalization sees one domain at a time.

K. Saenko, B. Kulis, M. Fritz, T. Darrell, "Adapting Visual Category Models to New Domains", ECCV 2010.
H. Venkateswara et al., "Deep Hashing Network for Unsupervised Domain Adaptation", CVPR 2017.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tasks.criteria import CrossEntropy
from tasks.image_reading import ImageFiles, View, check_images
from tasks.metrics import accuracy
from tasks.registry import register_task
from tasks.table_files import TextTable
from tasks.table_splits import kept_fingerprint
from tasks.task import Batch, DataError, Objective, Splits, Task, TensorData

_DOMAINS = {"office_31": ("amazon", "dslr", "webcam"), "office_home": ("Art", "Clipart", "Product", "Real_World")}
_CLASSES = {"office_31": 31, "office_home": 65}
_PAGES = {
    "office_31": "https://www.cc.gatech.edu/~judy/domainadapt/",
    "office_home": "https://www.hemanthdv.org/officeHomeDataset.html",
}


class Domains(Dataset[Batch]):
    """One split: sample i holds an image of every domain.

    Args:
        parts: Domain -> its images, with the labels as target of the same name.
        repeat: Repeat small domains, in an order drawn for each epoch; otherwise mask what they lack with label -1.
    """

    def __init__(self, parts: Mapping[str, ImageFiles], repeat: bool) -> None:
        self.parts, self.repeat = dict(parts), repeat
        self.targets = {name: part.targets[name] for name, part in parts.items()}
        self.set_epoch(0, 0)

    def __len__(self) -> int:
        return max(len(part) for part in self.parts.values())

    def __getitem__(self, index: int) -> Batch:
        inputs, targets = [], {}
        for number, (name, part) in enumerate(self.parts.items()):
            if index < len(part) or self.repeat:
                place = int(self.orders[name][index % len(part)])
                # not the place, or a repeated image would be cropped the same way again
                key = (*self.moment, index, number) if self.repeat else None
                inputs.append(part.view.tensor(part.paths[place], key))
                targets[name] = self.targets[name][place]
            else:
                inputs.append(torch.zeros(3, part.view.size, part.view.size))
                targets[name] = torch.tensor(-1)
        return Batch(tuple(inputs), targets)

    def set_epoch(self, seed: int, epoch: int) -> None:
        """Draw which images of the small domains are repeated, and beside which others, from both."""
        self.moment = (seed, epoch)
        # RandomState, unlike Generator, draws the same numbers in every NumPy version
        random = np.random.RandomState(np.random.SeedSequence([seed, epoch]).generate_state(4))
        self.orders = {
            name: random.permutation(len(part)) if self.repeat else np.arange(len(part))
            for name, part in self.parts.items()
        }


@register_task("office")
class Office(Task):
    """Classify objects in the images of several domains, an objective per domain.

    Needs the images in their original folders, and the lists ``<domain>_<split>.txt`` with a path and a class number on each line,
    split 60 / 20 / 20 %. Class numbers are those of the lists; they do not follow the alphabet.

    Args:
        data: ``office_31`` (amazon, dslr, webcam; 31 classes) or ``office_home`` (Art, Clipart, Product, Real_World; 65 classes).
        lists: Folder of the lists, if they are not beside the images.
        image_size: Height and width that images are stretched to.
        flip: Probability of mirroring a training image.
        crop: Smallest share of a training image's area that a random crop keeps; 1 for no random crops.
    """

    separate = True

    def __init__(
        self,
        data: Literal["office_31", "office_home"] = "office_31",
        lists: str | None = None,
        image_size: int = 224,
        flip: float = 0.0,
        crop: float = 1.0,
    ) -> None:
        self.data, self.lists, self.view = data, lists, View(image_size, "stretch", flip, crop)
        self.classes = _CLASSES[data]
        self.objectives = self._make_objectives([f"class {number}" for number in range(self.classes)])
        heads = {"classifiers": dict.fromkeys(_DOMAINS[data], self.classes), "regressors": {}}
        self.info = {"in_channels": 3, "image_size": image_size, **heads}

    def load(self, data_dir: Path) -> Splits:
        """Read the lists of images in ``data_dir``, or in a folder of the set's name in it."""
        images, lists = self._find(data_dir)
        names: dict[int, str] = {}
        splits = []
        for split in ("train", "val", "test"):
            parts = {
                domain: self._part(images, lists / f"{domain}_{split}.txt", domain, names)
                for domain in _DOMAINS[self.data]
            }
            paths = [path for part in parts.values() for path in part.paths]
            check_images("office", paths, data_dir / ".checked", "unpack the images again")
            splits.append(Domains(parts, repeat=split == "train"))
        classes = [names.get(n, f"class {n}") for n in range(self.classes)]
        for number, (then, now) in enumerate(zip(self._state.get("classes", classes), classes, strict=True)):
            if then != now:
                raise DataError(
                    f"office: {images} has changed since training: class {number} was {then}, and is {now}; restore the images"
                )
        rows = [
            (os.path.relpath(path, images).replace(os.sep, "/"), domain, split, str(label))
            for split, part in zip(("train", "val", "test"), splits, strict=True)
            for domain, files in part.parts.items()
            for path, label in zip(files.paths, files.targets[domain].tolist(), strict=True)
        ]
        columns = dict(zip(("image", "domain", "split", "class"), map(list, zip(*rows, strict=True)), strict=True))
        listing = TextTable.of_columns("office", str(images), columns, "image")
        seen = kept_fingerprint(listing, self._state.get("table"), another=False)
        return Splits(*splits, state={"classes": classes, "table": seen})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the names of the classes, which are those of the folders."""
        super().load_state_dict(state)
        self._update_objectives(self._make_objectives(state["classes"]))

    def preprocess(self, path: Path) -> TensorData:
        """One image, for the head of each domain, as the file does not name its domain."""
        image = self.view.tensor(path)[None]
        return TensorData((image,) * len(_DOMAINS[self.data]), {})

    def losses(self, model: Any, batch: Batch, phase: str) -> tuple[dict[str, Tensor], Any]:
        """Loss per domain, and the features of each."""
        features = tuple(model.features(images) for images in self._inputs(batch).values())
        outputs = {name: model.heads(part)[name] for name, part in zip(self._inputs(batch), features, strict=True)}
        return self.criteria(outputs, batch.targets), features

    def outputs(self, model: Any, batch: Batch) -> Mapping[str, Tensor]:
        """Each domain's images through the trunk and its own head."""
        return {name: model(images)[name] for name, images in self._inputs(batch).items()}

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        domains = {objective.name for objective in self.objectives}
        return {name: x for name, x in zip(_DOMAINS[self.data], batch.inputs, strict=True) if name in domains}

    def _make_objectives(self, classes: Sequence[str]) -> tuple[Objective, ...]:
        metrics = {"accuracy": accuracy(self.classes)}
        return tuple(Objective(domain, CrossEntropy(tuple(classes)), metrics) for domain in _DOMAINS[self.data])

    def _find(self, data_dir: Path) -> tuple[Path, Path]:
        """Folder that the paths in the lists start from, and folder of the lists."""
        domains = _DOMAINS[self.data]
        dashed = self.data.replace("_", "-")
        roots = (data_dir / self.data, data_dir / dashed, data_dir)
        images = next((root for root in roots if (root / domains[0]).is_dir()), None)
        if images is None:
            raise DataError(
                f"office: no folder {domains[0]} in {', '.join(str(root) for root in roots)}; download the images from "
                f"{_PAGES[self.data]} and unpack them to {roots[0]}, or set data_dir"
            )
        places = [images, images / "lists", images / "data_txt" / dashed]
        if self.lists is not None:
            places = [Path(self.lists)]
        lists = next((place for place in places if (place / f"{domains[0]}_train.txt").is_file()), None)
        if lists is None:
            raise DataError(
                f"office: no list {domains[0]}_train.txt in {', '.join(str(place) for place in places)}; the published lists are "
                f"in the repository of LibMTL, examples/office/data_txt/{dashed}; copy them to {images}, or set task.lists"
            )
        return images, lists

    def _part(self, images: Path, path: Path, domain: str, names: dict[int, str]) -> ImageFiles:
        """The images of a list. Adds the classes, which are names of folders, to ``names``.

        Raises DataError if they contradict each other.
        """
        if not path.is_file():
            raise DataError(f"office: there is no list {path}; copy it from where the others come from")
        paths, labels = [], []
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            start = f"office: {path}, line {number}:"
            if not line.strip():
                continue
            name, _, text = line.strip().rpartition(" ")
            if not name or not text.isdecimal() or int(text) >= self.classes:
                raise DataError(
                    f"{start} a path and a class from 0 to {self.classes - 1} are expected, got {line!r}; restore the list"
                )
            folder = Path(name).parent.name
            if names.setdefault(int(text), folder) != folder:
                raise DataError(
                    f"{start} class {text} is {folder} here and {names[int(text)]} in an earlier line; "
                    "use lists that were made together"
                )
            # a domain's folder has a space in the archive, and none in the lists
            places = (images / name, images / name.replace("Real_World/", "Real World/", 1))
            image = next((place for place in places if place.is_file()), None)
            if image is None:
                raise DataError(f"{start} there is no image {images / name}; unpack the images again")
            paths.append(str(image))
            labels.append(int(text))
        count = len(set(labels))
        if count < 2:
            raise DataError(f"office: {path} has images of {count} classes, and needs at least 2; restore the list")
        return ImageFiles(paths, {domain: torch.tensor(labels)}, self.view)
