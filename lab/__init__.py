"""The laboratory: benchmarks, tables, figures and reproductions behind the documents. Not installed."""
