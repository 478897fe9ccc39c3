"""Comparison of many runs, as ``scripts/compare.py`` shows it.

runs: summary.json, config.yaml -> run_sets: those that differ in their seed -> section: of a task -> output, pictures
"""
