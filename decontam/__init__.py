"""Checks that training text shares nothing with the tests. Importing this package loads no model library."""
