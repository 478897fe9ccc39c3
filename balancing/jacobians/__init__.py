"""Methods that see whole gradients: coordinate by coordinate, or averaged over steps."""
