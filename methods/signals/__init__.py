"""Signals: how good an item is for a target. `catalogue` lists them, `base` says what they promise."""
