"""Methods that find weights from the Gramian of the objectives' gradients."""
