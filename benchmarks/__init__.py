"""Benchmarks: one question a file, the same wiring as the scripts. Each ends with one line of JSON."""
