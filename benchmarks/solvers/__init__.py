"""Solvers and samplers: evaluations against error, and speed; docs/solvers.md."""
