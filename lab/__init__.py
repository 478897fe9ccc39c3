"""The laboratory, not installed: benchmarks, tables, figures and reproductions."""
