"""From documents to checked pairs: seeds, rubrics, pairs, validity, duplicates."""
