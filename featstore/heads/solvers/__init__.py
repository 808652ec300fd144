"""Numerical optimisation for the heads: losses, solvers, and passes over the training rows."""
