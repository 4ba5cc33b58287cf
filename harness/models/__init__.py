"""Models and how they generate: backends, prompts, and built-in generators."""
