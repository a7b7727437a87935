"""Compares recipes on labelled music: in, a base recipe and variants of it; out, differences with their intervals.

A cell is one training: a variant on a fold with a seed. `python -m benchmarks experiment --help` has the command.
"""
