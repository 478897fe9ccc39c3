"""Problems: data in three splits, and objectives with a criterion and metrics each.

>>> task = create_task("diamonds")
>>> train, val, test = task.splits()
"""

from tasks import (
    celeba,
    compressed_fashion,
    dense_folders,
    dense_lists,
    diamonds,
    fashion_gan,
    gaussians,
    image_table,
    maps,
    multi_fashion,
    office,
    qm9,
    rooms,
    table,
    two_view_fashion,
    union,
)
from tasks.criteria import CrossEntropy, SquaredError
from tasks.registry import create_task, list_tasks, register_task, task_arguments
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
]
