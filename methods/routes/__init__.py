"""Routes: how a seed becomes a pair. `harness.synthesis.route` says what they promise."""
