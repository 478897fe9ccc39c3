"""The commands of ``mozoo``: a module each, with a function ``main``.

Only these import ``train``.
"""
