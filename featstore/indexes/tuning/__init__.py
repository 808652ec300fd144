"""Choosing an index: its candidates, their trial on a sample, the run-time parameters that reach a recall."""
