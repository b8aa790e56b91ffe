"""Physical fields: PIDDM, refinement, posteriors, Jensen's gap; docs/piddm.md."""
