"""What one optimizer step on a sample does to the loss of reference items (Montessori-Instruct, ICLR 2025)."""
