"""The bench of pidax: problems x methods, rows, tables. See benchmarks/README.md."""
