"""How pictures mark what a model got wrong."""

CROSS = "\N{BALLOT X} "  # before a wrong class
WRONG = "#dc2626"
