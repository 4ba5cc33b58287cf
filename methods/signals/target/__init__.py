"""What signals that read the target share: opening it, its gradients and losses, their checks, and a base class."""
