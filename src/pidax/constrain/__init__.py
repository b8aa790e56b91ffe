"""Generation under constraint: one-step samples moved until they satisfy it."""
