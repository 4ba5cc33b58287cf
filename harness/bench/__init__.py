"""Benchmarks: what the project's own engines are compared with, on the same work in the same run."""
