"""Equations: accuracy and cost of their solvers, residual metrics; docs/pde.md."""
