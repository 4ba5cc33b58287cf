"""Acquisition functions: how uncertain the target is about its own answers to an item's question."""
