"""Rates of the stages of a funnel, click and conversion say, from all impressions.

A conversion can be seen only after a click. A model of the conversion rate that is trained on clicked impressions is then asked
about all impressions, of which most are unlike those. Here the towers predict the rate of each stage given the one before, but
the outputs are those of the products: of a click, and of a click with a conversion, labels that every impression has. The
conversion rate is a factor that no loss looks at alone. All towers read the same embeddings, so that the many impressions
without a click shape what the conversion tower reads.

    x, codes -> embeddings -+-> tower click:      MLP -> Linear -> a --------+----------> click:      logit of s(a)
                            +-> tower conversion: MLP -> Linear -> b -> product with a -> conversion: logit of s(a) s(b)

The logit of a product of sigmoids s is found in log space, ``-logsumexp(-a, -b, -a - b)``, and so on for more stages. The rate
of a stage given the one before is ``stage_rates(outputs)``.
Shared parameters: the embeddings, and the towers of all stages but the last, as the outputs of later stages contain them.
Features for ``at="features"``: the embedded inputs, which the last tower reads, and the logits of the stages before.
Origin: X. Ma et al., "Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion Rate", SIGIR 2018
(arXiv:1804.07931).

    model = create_model("esmm", in_features=3, classifiers={"click": 1, "conversion": 1}, categories=[2001, 501])
    outputs = model(x, codes)                   # {"click": (B, 1), "conversion": (B, 1)}
    balancer.backward({name: binary_cross_entropy_with_logits(outputs[name], y[name]) for name in outputs})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.base import BaseModel
from zoo.checks import check_at_least, check_dropout, head_sizes
from zoo.registry import ModelInfo, register_model
from zoo.tables import category_embedding, embed, embedding_network, mlp


def product_logit(a: Tensor, b: Tensor) -> Tensor:
    """Logit of ``sigmoid(a) sigmoid(b)``.

    Without overflow, and without loss of digits where the product is near 0 or 1.
    """
    # 1 / (s(a) s(b)) - 1 = exp(-a) + exp(-b) + exp(-a - b)
    return -torch.logsumexp(torch.stack([-a, -b, -a - b]), dim=0)


def stage_rates(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stage -> logarithm (B, 1) of its rate given the stage before.

    ``outputs`` are those of the model, in the order of the funnel.
    """
    logs = {name: F.logsigmoid(logit.float()) for name, logit in outputs.items()}
    before = [torch.zeros(()), *logs.values()]
    return {name: (log - last).clamp(max=0.0) for (name, log), last in zip(logs.items(), before, strict=False)}


@register_model(
    "esmm",
    ModelInfo(
        summary="rates of click and conversion as a product, learned from all impressions",
        inputs="x (B, in_features); with categories also codes (B, columns)",
        objectives="stages of a funnel: classifiers of one logit, in their order",
        default_task="impressions",
        origin="Ma et al., SIGIR 2018",
    ),
)
class ESMM(BaseModel):
    """An MLP tower per stage of a funnel on shared embeddings; outputs are logits of products.

    Args:
        in_features: Number of inputs.
        classifiers: Stage -> 1, its number of logits.
        stages: The classifiers in the order of the funnel; ``None``: as they come.
        width: Units of every hidden layer of a tower.
        depth: Number of hidden layers of a tower, at least 1.
        dropout: Probability in [0, 1) of dropping a unit after each hidden layer.
        categories: For each column of codes, how many codes it has; empty: the model takes numbers alone.

    Raises:
        ValueError: A classifier with more than one logit, or stages that are not the classifiers.
    """

    def __init__(
        self,
        in_features: int,
        classifiers: Mapping[str, int],
        stages: Sequence[str] | None = None,
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.0,
        categories: Sequence[int] = (),
    ) -> None:
        super().__init__()
        sizes = head_sizes("esmm", classifiers, {})
        check_at_least("esmm", 1, width=width, depth=depth)
        check_dropout("esmm", dropout)
        order = tuple(sizes) if stages is None else tuple(stages)
        if sorted(order) != sorted(sizes):
            raise ValueError(f"esmm: stages must be the classifiers in the order of the funnel, got {order}")
        for name, size in sizes.items():
            if size != 1:
                raise ValueError(
                    f"esmm: a stage has one logit, but {name!r} has {size}; use the criterion binary_cross_entropy for it"
                )
        self.objectives, self.categories = order, tuple(categories)
        self.embedding, inputs = category_embedding("esmm", in_features, categories)
        self.tower = nn.ModuleDict(
            {name: nn.Sequential(*mlp(inputs, width, depth, dropout), nn.Linear(width, 1)) for name in order}
        )

    def forward(self, x: Tensor, codes: Tensor | None = None) -> dict[str, Tensor]:
        """(B, in_features), and (B, columns) with categories -> one logit (B, 1) per stage."""
        return self.heads(self.features(x, codes))

    def features(self, x: Tensor, codes: Tensor | None = None) -> tuple[Tensor, ...]:
        """Inputs -> embedded inputs (B, inputs), and the logit (B, 1) of every stage but the last."""
        x = embed(self.embedding, x, codes)
        # a copy, as no feature may be computed from another: gradients at them would count twice
        return x.view_as(x), *(self.tower[name](x) for name in self.objectives[:-1])

    def heads(self, features: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Features -> logit (B, 1) of reaching each stage, from an impression on."""
        x, *logits = features
        last = self.objectives[-1]
        stages = accumulate([*logits, self.tower[last](x)], product_logit)
        return dict(zip(self.objectives, stages, strict=True))

    def head_parameters(self, name: str) -> list[nn.Parameter]:
        """The tower of the last stage; those of others are part of later outputs."""
        return list(self.tower[name].parameters()) if name == self.objectives[-1] else []

    def networks(self) -> dict[str, nn.Module]:
        """The towers and the embedding, for an optimizer each."""
        return {"towers": self.tower, **embedding_network(self.embedding)}
