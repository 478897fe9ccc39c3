"""Every registered balancer has one test file of its name, in the folder of its package."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from balancing import balancer_class, list_balancers

FILES = sorted(
    file
    for folder in ("losses", "gradients", "jacobians", "bilevel")
    for file in Path(__file__).parent.glob(f"{folder}/test_*.py")
)
METHODS = [name for name in list_balancers() if balancer_class(name).__module__.startswith("balancing.")]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_one_file(name):
    (file,) = (file for file in FILES if file.stem == f"test_{name}")
    assert file.parent.name == balancer_class(name).__module__.split(".")[1]
    tree = ast.parse(file.read_text())
    assert any(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in tree.body)
    assert any(isinstance(node, ast.Constant) and node.value == name for node in ast.walk(tree))


def test_every_file_belongs_to_a_method():
    assert Counter(file.stem.removeprefix("test_") for file in FILES) == Counter(METHODS)
