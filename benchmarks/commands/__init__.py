"""The commands of `python -m benchmarks` (suite, tune, compare, cost, readme) and their common modules."""
