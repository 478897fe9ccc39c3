"""Base of tasks with a map per objective, such as labels, depth, normals.

folder -> sample (NumPy, checked) -> size -> augmentation (training only) -> Batch((image,), {map: values})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from balancing.registry import suggestion
from tasks.dense_criteria import rarity_weights
from tasks.dense_windows import Windows, on_picture, windows_of
from tasks.image_reading import read_pixels, reason_of
from tasks.map_files import DAMAGE, Folder, check_image, load_npy
from tasks.map_kinds import MapKind, model_info
from tasks.resampling import Sample, crop_sample, planes, resize_sample
from tasks.task import Batch, DataError, Pictures, Prediction, Split, Splits, Task, sample_seed

Augment = Callable[[Sample, int], Sample]  # with a seed


class DenseData(Dataset[Batch]):
    """Samples of a folder as batches of one.

    Args:
        folder: Where samples come from.
        rows: Which of them.
        augment: Applied with a seed that follows from ``set_epoch`` and the row; ``None`` for none.
        size: Height and width to bring everything to; ``None`` leaves it.
        crop: Keep the middle of samples of another shape, which are distorted otherwise.
        unlabelled: Rows, one for each map that may be missing, that lack a map.
        labels: Labels of the whole image, of each row of the folder.
    """

    def __init__(
        self,
        folder: Folder,
        rows: Sequence[int],
        augment: Augment | None = None,
        size: tuple[int, int] | None = None,
        crop: bool = False,
        unlabelled: Sequence[int] = (),
        labels: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.folder, self.rows, self.augment, self.size, self.crop = folder, rows, augment, size, crop
        self.unlabelled, self.labels = tuple(unlabelled), dict(labels or {})
        self._seed, self._epoch = 0, 0
        self._references: dict[tuple[int, ...], dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, seed: int, epoch: int) -> None:
        """Augment as in ``epoch`` of a run with ``seed``."""
        self._seed, self._epoch = seed, epoch

    def __getitem__(self, index: int) -> Batch:
        return self.get(index, self.augment)

    def get(self, index: int, augment: Augment | None = None) -> Batch:
        """Sample ``index``, augmented with ``augment``. Raises DataError if it is damaged."""
        if not 0 <= index < len(self.rows):
            raise IndexError(f"no sample {index} among {len(self.rows)}")
        sample = self.folder.read(self.rows[index])
        if self.size is not None:
            sample = (crop_sample if self.crop else resize_sample)(sample, *self.size)
        if augment is not None:
            sample = augment(sample, sample_seed(self._seed, self._epoch, index))
        image = _tensor(planes(sample.pop("image")))
        targets = {name: _tensor(values) for name, values in sample.items()}
        return Batch((image,), targets | {name: values[self.rows[index]] for name, values in self.labels.items()})

    def reference_targets(self, indices: Sequence[int]) -> Mapping[str, Tensor]:
        """Maps of at most 64 samples, evenly spread over ``indices``, thinned and not augmented.

        They are enough for a mean over pixels. One without labels is among them for each map that some samples lack. Labels of
        the whole image are those of all ``indices``.
        """
        spread = [indices[i] for i in torch.linspace(0, len(indices) - 1, min(64, len(indices))).long().tolist()]
        rows = tuple(dict.fromkeys([*spread, *(row for row in self.unlabelled if row in indices)]))
        if rows not in self._references:
            samples = [self.get(row).targets for row in rows]
            step = max(min(next(iter(samples[0].values())).shape[-2:]) // 96, 1)
            self._references[rows] = {
                name: torch.stack([sample[name][..., ::step, ::step] for sample in samples])
                for name in samples[0]
                if name not in self.labels
            }
        chosen = torch.tensor([self.rows[index] for index in indices])
        return self._references[rows] | {name: values[chosen] for name, values in self.labels.items()}


def _tensor(values: np.ndarray) -> Tensor:
    if values.dtype == np.int16:
        return torch.from_numpy(values.astype(np.int64))
    return torch.from_numpy(np.ascontiguousarray(values[None] if values.ndim == 2 else values))


class DenseTask(Task):
    """Base of tasks with maps: augmentation, reference losses from sampled labels, pictures.

    Arguments that are not named here are those of :class:`tasks.rooms.Rooms`.

    Args:
        maps: What each map holds; the names are those of the objectives.
        mirror: Probability of mirroring a training picture.
        criteria: Map -> criterion, a name or a mapping with a name and options, where it is not the usual one.
    """

    crop = False  # whether of pictures of another shape the middle is kept

    def __init__(
        self,
        protocol: Literal["pooled", "mtan"],
        augment: bool,
        jitter: float,
        maps: Mapping[str, MapKind],
        rarity: float = 0.0,
        zoom: bool = True,
        mirror: float = 0.5,
        criteria: Mapping[str, Any] | None = None,
    ) -> None:
        from tasks.joint_transforms import JointTransform  # albumentations takes a while to import

        if not 0 <= rarity <= 1:
            raise ValueError(f"{self.name}: rarity must be in [0, 1], got {rarity}")
        self.protocol, self.maps, self.rarity = protocol, dict(maps), rarity
        self.info = model_info(self.maps)
        for name in criteria or {}:
            if name not in self.maps:
                raise ValueError(
                    f"task.criteria names {name!r}, which is no map; {suggestion(name, self.maps, 'these are {}')}"
                )
        chosen = criteria or {}
        self.objectives = tuple(kind.objective(name, protocol, chosen.get(name)) for name, kind in self.maps.items())
        try:
            zooms = (1.0, 1.2, 1.5) if zoom else (1.0,)
            kinds = {name: kind.kind for name, kind in self.maps.items()}
            transform = JointTransform(kinds, zooms, mirror, jitter, protocol)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        self.transform = transform if augment else None

    def auto_value(self, name: str, splits: Splits) -> Any:
        """As for all tasks; ``image_size`` is height and width."""
        return tuple(splits.state["size"]) if name == "image_size" else super().auto_value(name, splits)

    def make_splits(self, train: DenseData, val: DenseData, test: DenseData) -> Splits:
        """Splits whose state is the size of the pictures, and the class weights by rarity."""
        state: dict[str, Any] = {"size": list(val[0].inputs[0].shape[-2:]), "class_weights": {}}
        for o in self.objectives:
            criterion: Any = o.criterion
            if o.name not in self.maps or self.maps[o.name].kind != "classes":
                continue
            if criterion.weights == "balanced":
                labels = train.reference_targets(range(len(train)))[o.name]
                state["class_weights"][o.name] = list(criterion.fitted(labels).weights)
            elif self.rarity > 0 and criterion.weights is None:
                labels = train.reference_targets(range(len(train)))[o.name]
                state["class_weights"][o.name] = rarity_weights(labels, len(criterion.classes), self.rarity)
        return Splits(train, val, test, state=state)

    def state_dict(self) -> dict[str, Any]:
        """Height and width of the pictures, and names and sizes of files of public sets."""
        return {key: value for key, value in self._state.items() if key in ("size", "table")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resize new pictures to this size; weigh classes, if the state has their weights."""
        super().load_state_dict(state)
        weights = state.get("class_weights", {})
        self._update_objectives(
            replace(o, criterion=replace(o.criterion, weights=tuple(weights[o.name])))  # type: ignore[type-var]
            for o in self.objectives
            if o.name in weights
        )

    def preprocess(self, path: Path) -> Windows:
        """A picture, or an .npy file like those of the sets, in windows of the size of training."""
        try:
            image = self.read_image(path)
        except DAMAGE as error:
            raise DataError(f"cannot read picture {path} ({reason_of(error, str(path))})") from None
        height, width = self._state.get("size", image.shape[:2])
        return windows_of(image, (height, width), self.crop)

    def read_image(self, path: Path) -> np.ndarray:
        """(H, W, 3) in [0, 1]. Raises DataError, or what damaged files raise."""
        return check_image(load_npy(path) if path.suffix == ".npy" else read_pixels(path, 3))

    def decode(self, outputs: Mapping[str, Tensor]) -> Prediction:
        """Classes, shares, depths in the unit of the set, normals; their colors; labels as cells."""
        from tasks.dense_pictures import decode

        maps, labels = self._divided(outputs)
        return replace(decode(maps, self.maps), cells=super().decode(labels).cells)

    def decode_windows(self, windows: Windows, outputs: Mapping[str, Tensor]) -> Prediction:
        """The same of a picture, in its size. Its labels are those of the window in the middle."""
        from tasks.dense_pictures import present

        maps, labels = self._divided(outputs)
        found = {name: [on_picture(self.maps[name], values, windows)] for name, values in maps.items()}
        center = slice(windows.center, windows.center + 1)
        cells = super().decode({name: values[center] for name, values in labels.items()}).cells
        return replace(present(found, self.maps), cells=cells)

    def _divided(self, outputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Outputs for maps, in the unit of the set, and for labels."""
        own = [o for o in self.objectives if o.name in outputs]
        maps = {o.name: o.inverse_transform(outputs[o.name]) for o in own if o.name in self.maps}
        return maps, {o.name: outputs[o.name] for o in own if o.name not in self.maps}

    def pictures(self, model: Any, split: Split) -> Pictures:
        """Image, prediction and truth of four samples."""
        from tasks.dense_pictures import compare

        device = next(model.parameters()).device
        rows = torch.linspace(0, len(split) - 1, min(4, len(split))).long().tolist()  # type: ignore[arg-type]
        samples = [split[i] for i in rows]  # type: ignore[index]
        outputs = [
            {name: value[0].float().cpu() for name, value in model(batch.inputs[0][None].to(device)).items()}
            for batch in samples
        ]
        maps = {o.name: self.maps[o.name] for o in self.objectives if o.name in self.maps}
        return {"Image, then prediction and truth of each map.": compare(samples, outputs, maps)}
