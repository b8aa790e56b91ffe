"""Guided samplers against exact posteriors, on one teacher; docs/constrained.md."""
