"""Reference multi-objective architectures: plain modules, one file each on a small base.

>>> model = create_model("shared_trunk", in_features=21, classifiers={"cut": 5}, regressors={"price": 1})
"""

from zoo import (
    chained,
    conditioned,
    cross_stitch,
    cross_stitch_timm,
    dense,
    dense_deeplab,
    dense_mtan,
    dense_mtan_original,
    dense_segnet,
    dense_vit,
    dual,
    esmm,
    gan,
    image_trunk,
    mmoe,
    mmoe_timm,
    molecules,
    molecules_nnconv,
    pinn,
    ple,
    ple_timm,
    shared_trunk,
)
from zoo.base import BaseModel, TrunkModel
from zoo.registry import (
    ModelInfo,
    create_model,
    list_models,
    model_arguments,
    model_entrypoint,
    model_info,
    register_model,
    register_variant,
)

__all__ = [
    "BaseModel",
    "ModelInfo",
    "TrunkModel",
    "create_model",
    "list_models",
    "model_arguments",
    "model_entrypoint",
    "model_info",
    "register_model",
    "register_variant",
]
