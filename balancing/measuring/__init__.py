"""How gradients are measured: one backward per loss, at shared parameters, at the features or at a subset."""
