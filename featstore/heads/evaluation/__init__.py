"""Evaluation of heads: measures with 95 % intervals, calibration, comparison of two heads, learning curve."""
