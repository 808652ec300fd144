"""Evaluation of heads: figures with intervals, calibration, comparison, learning curve."""
