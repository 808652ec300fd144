"""How good a head is: figures with intervals, calibration, comparison, learning curve."""
