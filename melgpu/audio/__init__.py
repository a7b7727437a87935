"""Audio files and URLs to mono float32 samples, in processes that may crash; no torch."""
