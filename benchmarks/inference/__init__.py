"""Posterior samples against quadrature, by every method; docs/inference.md."""
