"""Costs and loads of stages: the records of an estimate, and the arithmetic that the stages' own estimates share."""
