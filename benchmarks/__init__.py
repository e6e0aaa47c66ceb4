"""Benchmarks: each question compares two sides in one run, as machines are shared and noisy."""
