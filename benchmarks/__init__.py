"""The bench of pidax: problems x methods, rows, tables. See benchmarks/README.md."""

# In this order they are run and listed; each is a package in this folder.
SUITES = ("pid", "piddm", "solvers", "pde", "train", "reliability", "fuzz")
