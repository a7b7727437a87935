"""Source lists to shuffled batches of windows on the device."""
