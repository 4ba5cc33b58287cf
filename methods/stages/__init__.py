"""The stages that all drivers share, each a function from a plan to a `Stage`."""
