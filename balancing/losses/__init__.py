"""Methods that look at the losses only: one ordinary backward of a weighted sum."""
