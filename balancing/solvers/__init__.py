"""The small convex problems behind gradient methods: K x K, float64, nothing but torch."""

from .cone import conic_weights
from .conflict_averse import conflict_averse_weights
from .dual_cone import constrained_weights, dual_cone_weights, dual_cone_weights_of_each
from .fair import fair_weights
from .linear import largest_gain
from .min_norm import frank_wolfe, min_norm_weights
from .projections import conflict_free_weights, project_to_simplex, weights_for_projections
from .quadratic import ActiveSet, UnboundedError, cosine_matrix, nonnegative_qp
