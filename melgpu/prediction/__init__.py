"""Trained networks and music to class probabilities."""
