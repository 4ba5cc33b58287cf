"""Experiments on the lab, where the worth of every pair is known: they calibrate the bench."""
