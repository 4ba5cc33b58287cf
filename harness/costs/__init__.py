"""What stages cost and load: the records of an estimate, and the arithmetic that the stages' own estimates share."""
