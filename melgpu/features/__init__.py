"""Batches of waveforms, shape (B, T), to log-mel pictures, shape (B, 3, S, S), on the device."""
