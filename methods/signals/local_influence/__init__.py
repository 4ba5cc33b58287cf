"""The effect of one optimizer step on a sample upon the loss of reference items (Montessori-Instruct, ICLR 2025)."""
