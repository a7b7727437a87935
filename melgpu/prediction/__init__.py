"""Class probabilities of tracks and music files from trained networks."""
