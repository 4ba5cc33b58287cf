"""The checks before any work: `doctor`, what a run lacks here, its data, its signal, its models' training."""
