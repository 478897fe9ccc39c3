"""The files in configs/ against the code that they configure."""

import dataclasses
import functools
import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import balancing
import mozoo
import tasks
import zoo
from mozoo import config as schema
from mozoo import tools

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
ARGUMENTS = {
    "model": (zoo.list_models, zoo.model_arguments),
    "task": (tasks.list_tasks, tasks.task_arguments),
    "balancer": (balancing.list_balancers, balancing.balancer_arguments),
}
SCHEMAS = {
    "optimizer": schema.OptimizerConfig,
    "scheduler": schema.SchedulerConfig,
    "trainer": schema.TrainerConfig,
    "logger": schema.LoggerConfig,
}


def files(*groups):
    found = [path for group in groups for path in sorted((CONFIGS / group).glob("*.yaml"))]
    return [(path.parent.name, path.stem) for path in found if not path.stem.startswith("_")]


@functools.cache
def composed(*words):
    """The configuration for these words, which is not to be changed."""
    return mozoo.compose(words)


def plain(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(("group", "name"), files(*ARGUMENTS))
def test_file_lists_every_argument_with_its_default(group, name):
    section = dict(getattr(composed(f"{group}={name}"), group))
    signature = ARGUMENTS[group][1](section.pop("name"))
    assert set(section) == set(signature)
    for key, value in section.items():
        default = signature[key].default
        if value == "auto":
            # but models for maps can be built by their name alone, for furnished rooms
            rooms = {"in_channels": 3, "maps": ("segmentation", "depth", "normals"), "segmentation_classes": 13}
            assert default in (inspect.Parameter.empty, None, ()) or default == rooms[key]
        else:
            assert (value, type(value)) == (plain(default), type(plain(default))), key


@pytest.mark.parametrize(("group", "name"), files(*SCHEMAS))
def test_file_lists_every_field(group, name):
    listed = yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text())
    assert list(listed) == [field.name for field in dataclasses.fields(SCHEMAS[group])]
    mozoo.compose([f"{group}={name}"])


@pytest.mark.parametrize(("group", "name"), files("experiment", "debug"))
def test_recipe_composes(group, name):
    is_default = (group, name) == ("experiment", "diamonds")  # the run of the README by a name
    assert (mozoo.compose([f"{group}={name}"]) == composed()) == is_default


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in ARGUMENTS for name in ARGUMENTS[group][0]()])
def test_registered_name_has_a_file(group, name):
    assert (CONFIGS / group / f"{name}.yaml").is_file()
    assert getattr(composed(f"{group}={name}"), group)["name"] == name


@pytest.mark.parametrize("name", [name for _, name in files("model")])
def test_model_brings_its_default_task(name):
    config = composed(f"model={name}")
    assert config.task["name"] == zoo.model_info(config.model["name"]).default_task


@pytest.mark.parametrize("task", tasks.list_tasks())
def test_task_on_the_command_line_wins(task):
    assert mozoo.compose([f"task={task}", "model=shared_trunk"]).task["name"] == task


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_file_names_no_class(path):
    assert "_target_" not in path.read_text()


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_key_is_written_once(path):
    def keys(node):
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value]
            assert len(set(names)) == len(names)
            for _, value in node.value:
                keys(value)

    keys(yaml.compose(path.read_text()))


@pytest.mark.parametrize("name", ["cross_stitch_timm", "mmoe_timm", "ple_resnet18"])
def test_models_of_maps_and_classes_take_what_the_task_has(name):
    section = dict(composed(f"model={name}").model)
    splits = SimpleNamespace(state={"size": [24, 32]})
    _, maps = tools.resolve_arguments("model", section, tasks.create_task("rooms"), splits)
    assert (maps["maps"], maps["segmentation_classes"]) == (("segmentation", "depth", "normals"), 13)
    assert (maps["classifiers"], maps["regressors"], maps.get("image_size", (24, 32))) == ({}, {}, (24, 32))
    _, classes = tools.resolve_arguments("model", section, tasks.create_task("multi_fashion"), splits)
    assert (classes["maps"], classes["segmentation_classes"]) == ((), None)
    assert classes["classifiers"] == {"top_left": 10, "bottom_right": 10}
