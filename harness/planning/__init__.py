"""The plan of a run: what it would do and cost, before it does anything."""
