"""A seed to a small synthetic music corpus, for first steps and for tests."""
