"""Gradients of each loss, at shared parameters, at the features or at a subset."""
