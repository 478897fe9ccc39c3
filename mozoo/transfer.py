"""Weights of a run for other data, matched by the names of inputs, categories and classes.

    first layers     columns by the name of the input, rescaled from its old mean and deviation to the new ones
    embedding        rows by column and category
    last layers      rows by class or tag; numbers rescaled from the old unit to the new one

So a row has the prediction that it had, as far as both sets know its columns, categories and classes. What has no counterpart
keeps the weights that the new model starts with.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mozoo.arguments import ConfigError, some
from mozoo.trust import check_modules
from tasks import Objective, Splits, Task, TensorData, create_task
from tasks.criteria import L1, ClassCriterion, Huber, MultiLabel, Poisson, SquaredError
from tasks.gan_task import GanTask
from tasks.table import Table
from tasks.table_transfer import NumberMeaning, category_rows, number_meanings
from zoo.tables import CategoryEmbedding

_SHOWN = 6  # names in a message
_ALIKE = (ClassCriterion, (SquaredError, L1, Huber))  # criteria whose outputs mean the same


def stored_task(folder: Path, trust: bool = False) -> Task:
    """The task that is described beside weights, with its state.

    Raises ConfigError if the description asks for modules that are neither imported nor, by ``trust``, welcome; many types for
    a damaged one.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for module in check_modules(folder, config.get("imports", []), trust):
        importlib.import_module(module)
    task = create_task(**config["task"])
    if config["learnt"]:
        task.load_state_dict(config["learnt"])
    return task


def match(
    model: nn.Module, found: Mapping[str, Tensor], old: Task, new: Task, splits: Splits
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a run as those of ``model``, and what was changed or left out, for people.

    Args:
        model: As it starts.
        found: Weights by name; those that do not fit are left as they are.
        old: Task of the run, with its state.
        new: Task of the model, with its state.
        splits: Data of the latter.

    Raises:
        ConfigError: Inputs have another meaning, and the weights that read them cannot be told; a GAN of other classes.
    """
    if isinstance(old, GanTask) and isinstance(new, GanTask) and old.class_loss.classes != new.class_loss.classes:
        then, now = (", ".join(task.class_loss.classes) or "none" for task in (old, new))
        raise ConfigError(
            f"init: the run generates samples of the classes {then}, and these data have {now}; a generator needs the same classes"
        )
    weights, told = dict(found), list[str]()
    ends = _Ends(model, new, splits)
    if isinstance(old, Table) or isinstance(new, Table):
        told += _match_inputs(model, ends, weights, old, new)
        told += _match_categories(model, weights, old, new)
    before = {objective.name: objective for objective in old.objectives}
    if list(before) != [objective.name for objective in new.objectives]:
        parts = {*getattr(model, "ordered_by_objective", ())}
        dropped = [key for key in found if parts & {*key.split(".")} and weights.pop(key, None) is not None]
        told += _listed("left out, as the objectives are others or in another order", dropped)
    for objective in new.objectives:
        if objective.name in before:
            told += _match_outputs(model, ends, weights, before[objective.name], objective)
    return weights, told


class _Ends:
    """First and last layers of a model, found by looking at what its modules read and return."""

    def __init__(self, model: nn.Module, task: Task, splits: Splits) -> None:
        self._arguments = model, task, splits
        self._found: tuple[list[tuple[str, nn.Module]], dict[str, str]] | None = None

    @property
    def readers(self) -> list[tuple[str, nn.Module]]:
        """Modules with weights that read the inputs, by name."""
        return self._find()[0]

    def last(self, objective: str) -> str | None:
        """Name of the linear layer that returns the output of an objective, if one does."""
        return self._find()[1].get(objective)

    @torch.no_grad()
    def _find(self) -> tuple[list[tuple[str, nn.Module]], dict[str, str]]:
        if self._found is not None:
            return self._found
        model, task, splits = self._arguments
        inputs: list[Tensor] = []
        readers: dict[str, nn.Module] = {}
        returned: list[tuple[Tensor, str]] = []

        def before(name: str, module: nn.Module, arguments: Any) -> None:
            if not name:
                inputs.extend(arguments)
            elif arguments and any(map(partial(_same, arguments[0]), inputs)) and [*module.parameters()]:
                readers[name] = module

        def after(name: str, module: nn.Module, arguments: Any, output: Any) -> None:
            if isinstance(module, CategoryEmbedding):
                inputs[:] = [output]
                readers.clear()
            elif isinstance(module, nn.Linear):
                returned.append((output, name))

        handles = []
        for name, module in model.named_modules():
            if not any(True for _ in module.children()) or not name or isinstance(module, CategoryEmbedding):
                handles.append(module.register_forward_pre_hook(partial(before, name)))
                handles.append(module.register_forward_hook(partial(after, name)))
        mode = model.training
        try:
            outputs = task.outputs(model.eval(), _first_samples(splits).batch(torch.arange(1)))
        finally:
            model.train(mode)
            for handle in handles:
                handle.remove()
        last = {key: name for key, output in outputs.items() for tensor, name in returned if tensor is output}
        self._found = list(readers.items()), last
        return self._found


def _same(one: Any, other: Tensor) -> bool:
    """Whether both are a tensor, or views of it that show all of it alike, as features may be."""
    if not isinstance(one, Tensor) or one.shape != other.shape or one.stride() != other.stride():
        return False
    return one is other or one.data_ptr() == other.data_ptr()


def _first_samples(splits: Splits) -> TensorData:
    """The first sample of the validation split, on the CPU."""
    if isinstance(splits.val, TensorData):
        return splits.val.first(1).to("cpu")
    inputs, targets = splits.val[0]
    return TensorData(tuple(x[None] for x in inputs), {name: y[None] for name, y in targets.items()})


def _numbers(task: Task, embedding: str | None, weights: Mapping[str, Tensor]) -> list[NumberMeaning]:
    """What the numbers mean that the first layers read; none if the task does not tell."""
    if not isinstance(task, Table):
        return []
    table = weights.get(f"{embedding}.table.weight") if embedding else None
    return number_meanings(task.inputs, 0 if table is None else table.shape[1])


def _embedding(model: nn.Module) -> str | None:
    return next((name for name, module in model.named_modules() if isinstance(module, CategoryEmbedding)), None)


def _match_inputs(model: nn.Module, ends: _Ends, weights: dict[str, Tensor], old: Task, new: Task) -> list[str]:
    """Order, and rescale, the columns of the first layers."""
    embedding, own = _embedding(model), model.state_dict()
    before, now = _numbers(old, embedding, weights), _numbers(new, embedding, own)
    if before == now:
        return []
    if not ends.readers:
        raise ConfigError(
            "init: the run has other inputs than this table, and which weights of the model read them cannot be seen; "
            "give both tables the same columns, or begin without init"
        )
    places = {number.name: place for place, number in enumerate(before)}
    pairs = [(place, places[number.name]) for place, number in enumerate(now) if number.name in places]
    scales = torch.tensor([now[i].std / before[j].std for i, j in pairs], dtype=torch.float64)
    shifts = torch.tensor([(now[i].mean - before[j].mean) / before[j].std for i, j in pairs], dtype=torch.float64)
    moved = bool(shifts.abs().max() > 0) if pairs else False
    left_out = []
    for name, module in ends.readers:
        weight = weights.get(f"{name}.weight")
        if not isinstance(module, nn.Linear) or weight is None or not pairs or weight.shape[1:] != (len(before),):
            left_out += [key for key in own if key.startswith(f"{name}.") and weights.pop(key, None) is not None]
            continue
        columns = weight[:, [j for _, j in pairs]].double()
        fresh = own[f"{name}.weight"].clone()
        if fresh.shape[0] != weight.shape[0]:
            continue
        fresh[:, [i for i, _ in pairs]] = (columns * scales).to(fresh)
        weights[f"{name}.weight"] = fresh
        bias = weights.get(f"{name}.bias")
        if bias is not None:
            weights[f"{name}.bias"] = (bias.double() + columns @ shifts).to(bias)
        elif moved:
            left_out.append(f"{name}.bias, which would take up other means")
    known = {now[i].name for i, _ in pairs}
    told = [f"{len(pairs)} of {len(now)} inputs by name"]
    told += _listed("new", [number.name for number in now if number.name not in known])
    told += _listed("not in this table", [number.name for number in before if number.name not in known])
    told += _listed("other means or deviations", [now[i].name for i, j in pairs if now[i] != before[j]])
    told += _listed("left out", left_out)
    return [", ".join(told)]


def _match_categories(model: nn.Module, weights: dict[str, Tensor], old: Task, new: Task) -> list[str]:
    """Order the rows of the embedding."""
    embedding, own = _embedding(model), model.state_dict()
    key = f"{embedding}.table.weight"
    if embedding is None or key not in weights:
        return []
    before = category_rows(old.inputs) if isinstance(old, Table) else []
    now = category_rows(new.inputs) if isinstance(new, Table) else []
    if before == now:
        return []
    table, fresh = weights.pop(key), own[key].clone()
    if table.shape != (len(before), fresh.shape[1]):
        return ["categories left out, which are those of another task"]
    places = {row: place for place, row in enumerate(before)}
    pairs = [(place, places[row]) for place, row in enumerate(now) if row in places]
    fresh[[i for i, _ in pairs]] = table[[j for _, j in pairs]].to(fresh)
    weights[key] = fresh

    def texts(rows: Sequence[tuple[str, str | None]], others: Sequence[tuple[str, str | None]]) -> list[str]:
        known = set(others)
        return [f"{row[0]} {row[1] or 'missing'}" for row in rows if row not in known and row[1] is not None]

    told = [f"{sum(now[i][1] is not None for i, _ in pairs)} categories by name"]
    return [", ".join([*told, *_listed("new", texts(now, before)), *_listed("not in this table", texts(before, now))])]


def _match_outputs(model: Any, ends: _Ends, weights: dict[str, Tensor], old: Objective, new: Objective) -> list[str]:
    """Order the rows of the last layer of an objective, or rescale them."""
    before, now = (tuple(getattr(each.criterion, "classes", ())) for each in (old, new))
    scale, shift, reason = _rescaling(old, new)
    pairs = [(place, before.index(name)) for place, name in enumerate(now) if name in before]
    if before != now and not reason:
        if not isinstance(new.criterion, ClassCriterion | MultiLabel):
            reason = "other classes"
        elif not pairs:
            reason = "no class is the same"
    if not reason and before == now and (scale, shift) == (1.0, 0.0):
        return []
    own, last = model.state_dict(), ends.last(new.name)
    keys = [f"{last}.weight", f"{last}.bias"]
    if last is None or any(key not in weights for key in keys):
        keys, reason = _head_keys(model, new.name), reason or "its last layer cannot be told"
    if not reason and before != now and len(weights[keys[0]]) != len(before):
        reason = "another number of outputs"
    if reason:
        dropped = [key for key in keys if weights.pop(key, None) is not None]
        return [f"{new.name}: {some(dropped, _SHOWN)} left out ({reason})"] if dropped else []
    if before == now:
        for key in keys:
            weights[key] = (weights[key].double() * scale).to(weights[key])
        weights[keys[1]] = (weights[keys[1]].double() + shift).to(weights[keys[1]])
        return [f"{new.name}: rescaled to the mean and deviation of these data"]
    for key in keys:
        if weights[key].shape[1:] == own[key].shape[1:]:
            fresh = own[key].clone()
            fresh[[i for i, _ in pairs]] = weights[key][[j for _, j in pairs]].to(fresh)
            weights[key] = fresh
    told = [f"{new.name}: {len(pairs)} of {len(now)} classes by name"]
    told += _listed("new", [name for name in now if name not in before])
    told += _listed("not in these data", [name for name in before if name not in now])
    return [", ".join(told)]


def _rescaling(old: Objective, new: Objective) -> tuple[float, float, str]:
    """Factor and summand with which outputs mean the same, or a reason why there are none."""
    before: Any = old.criterion
    now: Any = new.criterion
    same = type(before) is type(now) or any(isinstance(before, k) and isinstance(now, k) for k in _ALIKE)
    if not same or getattr(before, "quantiles", None) != getattr(now, "quantiles", None):
        return 1.0, 0.0, "another criterion"
    if isinstance(now, Poisson):
        return 1.0, math.log(before.mean / now.mean), ""
    unit, other = (getattr(each.inverse_transform, "func", None) for each in (old, new))
    then, here = (_scale(each) for each in (old, new))
    if unit is not other or (then.get("limit") is None) != (here.get("limit") is None):
        return 1.0, 0.0, "another unit"
    if then == here or not here.get("std"):
        return 1.0, 0.0, ""
    return then["std"] / here["std"], (then["mean"] - here["mean"]) / here["std"], ""


def _scale(objective: Objective) -> dict[str, Any]:
    """Mean, deviation and limit of the inverse transform, if it has such."""
    options = getattr(objective.inverse_transform, "keywords", {})
    return {name.removeprefix("log_"): value for name, value in options.items()}


def _head_keys(model: Any, objective: str) -> list[str]:
    """Weights of the head of an objective."""
    head = getattr(model, "head_parameters", model.objective_parameters)(objective)
    chosen = {id(parameter) for parameter in head}
    return [name for name, parameter in model.named_parameters() if id(parameter) in chosen]


def _listed(what: str, names: Sequence[str]) -> list[str]:
    return [f"{what}: {some(names, _SHOWN)}"] if names else []
