"""Index tuning: candidates, their trials on a sample, and the run-time parameters that reach the required recall."""
