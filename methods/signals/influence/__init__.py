"""Adam-aware influence of a sample on the validation loss (OptimSyn Eq. 1, after LESS)."""
