"""The `fineweb-edu` signal: educational value by a classifier, or likeness to texts that one has chosen."""
