"""Tags of music files: genres become the labels of a source list, predicted labels become genres."""
