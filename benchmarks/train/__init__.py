"""Training: the engine beside a bare loop, an image network; docs/training.md."""
