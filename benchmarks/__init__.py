"""The bench of pidax: problems x methods, rows, tables. See benchmarks/README.md."""

from importlib.metadata import version

# In this order they are run and listed; each is a package in this folder.
SUITES = (
    "pid", "piddm", "inference", "constrained", "generators", "solvers", "pde", "train",
    "reliability", "fuzz",
)  # fmt: skip

# XLA_FLAGS of trial runs, whose numbers are not kept: only compiling takes long there.
# XLA's newer emitters take two thirds of what is left (seen with jaxlib 0.10); XLA ends
# the process at a flag that it does not know.
FAST_COMPILING = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10.")
)
