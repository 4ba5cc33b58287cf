"""Training over TRL and PEFT: supervised fine-tuning and GRPO, with the optimizer's state."""
