"""Problems: data in three splits, and objectives with a criterion and metrics each.

>>> task = create_task("diamonds")
>>> train, val, test = task.splits()
"""

from tasks import (
    advection,
    burgers,
    celeba,
    compressed_fashion,
    dense_folders,
    dense_lists,
    diamonds,
    fashion_gan,
    gaussians,
    helmholtz,
    image_table,
    impressions,
    lid_cavity,
    maps,
    multi_fashion,
    office,
    picture_gan,
    qm9,
    rooms,
    table,
    two_view_fashion,
    union,
)
from tasks.criteria import CrossEntropy, SquaredError
from tasks.registry import create_task, list_tasks, register_task, task_arguments, task_class
from tasks.task import Batch, DataError, MetricSpec, Objective, Prediction, Splits, Task, TensorData

__all__ = [
    "Batch",
    "CrossEntropy",
    "DataError",
    "MetricSpec",
    "Objective",
    "Prediction",
    "Splits",
    "SquaredError",
    "Task",
    "TensorData",
    "create_task",
    "list_tasks",
    "register_task",
    "task_arguments",
    "task_class",
]
