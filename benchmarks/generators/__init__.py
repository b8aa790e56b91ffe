"""Problems that need a generator: truths, sensors, and the scores that matter."""
