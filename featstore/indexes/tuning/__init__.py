"""Index tuning: candidate types of index, trials on a sample, and search parameters that reach the required recall."""
