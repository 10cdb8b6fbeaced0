"""Benchmarks: each script runs both sides in one process and prints their ratio."""
