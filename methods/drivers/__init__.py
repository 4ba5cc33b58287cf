"""Drivers: what to do about a signal. Each turns a plan of a run into stages."""
