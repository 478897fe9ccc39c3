"""Methods that learn weights from validation losses after a virtual step."""
