"""vLLM as a server process that a run starts, watches, bounds and stops."""
