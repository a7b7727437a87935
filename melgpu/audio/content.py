"""A file to a short text that tells whether it is still the same: its size and a hash of its beginning."""

import hashlib
import os
import re

from melgpu.audio import remote

HASHED_BYTES = 1 << 16  # of the beginning
CONTENT_ID = re.compile(r"\d{1,19}-[0-9a-f]{32}")


def content_id(path: str) -> str:
    """`SIZE-HASH` of a local file; empty where it cannot be read, and for a URL, which would have to be downloaded."""
    if remote.is_url(path) or not os.path.isfile(path):
        return ""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.blake2b(file.read(HASHED_BYTES), digest_size=16)
    except OSError:
        return ""
    return f"{size}-{digest.hexdigest()}"


def size_of(content: str) -> int:
    """The size in bytes that a `content_id` has."""
    return int(content.partition("-")[0])
