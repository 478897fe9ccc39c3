from __future__ import annotations

from torch import Tensor

from ..errors import SolverError
from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..solvers import weights_for_projections


@register_balancer("imtl_g")
class ImpartialGradient(GramianBalancer):
    """Make the projections ``d.g_i / ||g_i||`` equal for all i, with weights that sum to 1.

    ``w_i ~ (C^+ 1)_i / ||g_i||`` with the matrix of cosines C: the published closed form, which singles out the first
    objective, written symmetrically.
    Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021, its part for the gradients, which the authors measure at
    the shared features (``at="features"``).

    needs: gramian     scale: mean-like     heads: unit     preference: projections in proportion to it
    Weights may be negative. Where they would sum to a negative number, the published update goes uphill for every
    objective; here the sum is then -1 and the update goes downhill. Linearly dependent gradients have projections that are
    equal in the sense of least squares; zero gradients get weight 0; two opposed gradients, or none, give a zero update.
    Raises if the weights sum to 0 otherwise, as the length of the update is then undefined.
    """

    convention = "mean"
    preference_on = "method"

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        w = weights_for_projections(gramian, self.preference)
        total, size = abs(float(w.sum())), float(w.abs().sum())
        if size == 0:
            return w
        if total <= 1e-12 * size:
            raise SolverError("the weights of equal projections sum to zero, so they cannot be normalised")
        return w / total
