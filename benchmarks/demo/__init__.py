"""The finished run of `make demo` to a saved result, and that to its tables."""
