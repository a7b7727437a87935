"""The commands of `python -m benchmarks` (suite, tune, compare, cost, gpu, readme) and their common modules."""
