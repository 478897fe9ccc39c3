"""Losses that mask missing labels, with their trivial values, metrics, heads and cells.

>>> create_criterion("huber", delta=0.5)(output, target)
"""

from tasks.criteria.base import (
    LABEL_KINDS,
    Columns,
    Criterion,
    Kind,
    LabelKind,
    NamedCriterion,
    Transform,
    Weights,
    check_shapes,
    decode_output,
)
from tasks.criteria.classes import BinaryCrossEntropy, ClassCriterion, CrossEntropy, DiceCrossEntropy, Focal
from tasks.criteria.ordinal import Ordinal
from tasks.criteria.registry import (
    CriterionChoice,
    choose_criteria,
    choose_criterion,
    create_criterion,
    criterion_state,
    default_criterion,
    list_criteria,
    register_criterion,
)
from tasks.criteria.tags import MultiLabel
from tasks.criteria.values import L1, Huber, Poisson, Quantile, SquaredError, ValueCriterion

__all__ = [
    "L1",
    "LABEL_KINDS",
    "BinaryCrossEntropy",
    "ClassCriterion",
    "Columns",
    "Criterion",
    "CriterionChoice",
    "CrossEntropy",
    "DiceCrossEntropy",
    "Focal",
    "Huber",
    "Kind",
    "LabelKind",
    "MultiLabel",
    "NamedCriterion",
    "Ordinal",
    "Poisson",
    "Quantile",
    "SquaredError",
    "Transform",
    "ValueCriterion",
    "Weights",
    "check_shapes",
    "choose_criteria",
    "choose_criterion",
    "create_criterion",
    "criterion_state",
    "decode_output",
    "default_criterion",
    "list_criteria",
    "register_criterion",
]
