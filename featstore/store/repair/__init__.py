"""Verify a store, and restore what is damaged."""
