"""Benchmarks: one question a module, on the same code as the scripts. Each ends with one line of JSON."""
