"""Verify a store, and restore damaged files."""
