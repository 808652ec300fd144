"""Index tuning: candidates, their trials on a sample, and the search parameters that reach the required recall."""
