"""Decoding of audio files and URLs to mono float32 samples, in worker processes that may crash; no torch."""
