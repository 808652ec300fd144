"""The numerical work behind the heads: objectives, solvers, and passes over the training rows."""
