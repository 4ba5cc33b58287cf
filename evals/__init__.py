"""Suites of benchmarks, and their evaluation. Importing this package loads no model library."""
