"""Comparison of many runs, as ``scripts/compare.py`` shows it.

    summary.json, config.yaml -> runs -> run sets, which differ in their seed only -> a section per task -> HTML, Markdown, CSV

:mod:`~engine.comparison.runs` reads, :mod:`~engine.comparison.run_sets` groups, :mod:`~engine.comparison.section` computes,
:mod:`~engine.comparison.tables` and :mod:`~engine.comparison.pictures` show.
"""
