"""The commands of `python -m benchmarks`: the suite, tune, compare, cost, readme, and what they share."""
