"""Common parts of signals that read the target: opening it, its gradients and losses, their checks, a base class."""
