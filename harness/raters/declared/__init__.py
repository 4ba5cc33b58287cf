"""The declarations of published raters; the file names of their entries in `harness.raters`."""
