"""The commands of ``mozoo``, a module each with a function ``main``; only these import ``train``."""
