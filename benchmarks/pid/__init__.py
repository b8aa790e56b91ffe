"""Students of an ODE of vectors: errors, ablations, costs; docs/pid.md."""
