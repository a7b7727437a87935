"""A small synthetic music corpus, generated from a seed, for first steps and for tests."""
