"""Index tuning: types of index to try, trials of them on a sample, and search parameters for the required recall."""
