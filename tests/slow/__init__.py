"""Checks that take minutes, gigabytes or real pictures: run by hand with ``python -m tests.slow.NAME``, each prints its figures."""
