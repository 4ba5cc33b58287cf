"""The embedded lab: a planted world of rules and tiny models, in which the worth of a sample is known."""
