"""Checks that need minutes, gigabytes or real pictures. Run one by hand with ``python -m tests.slow.NAME``."""
