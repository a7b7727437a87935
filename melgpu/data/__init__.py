"""Lists of tracks to shuffled batches of windows on the device."""
