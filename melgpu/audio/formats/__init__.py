"""The headers of a file to how much audio it holds, without decoding: MPEG audio, Ogg, FLAC, wav."""
