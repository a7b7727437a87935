"""Audio files behind URLs (s3://, gs://, https://, ...), through fsspec, which is an optional extra.

A URL is fetched into a temporary file for as long as it is read, so memory stays bounded and every decoder works.
"""

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from melgpu.errors import InputError

RETRY_DELAYS_S = (1, 4)  # before a fetch that failed is tried again


def is_url(path: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", path) is not None


def absolute_path(path: str) -> str:
    """A path that holds from any folder; a URL as it is."""
    return path if is_url(path) else os.path.abspath(path)


def file_suffix(path: str) -> str:
    """The lower-case suffix of a path or URL, with its dot; a URL's query does not count."""
    return PurePosixPath(path.split("?")[0] if is_url(path) else path).suffix.lower()


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """A file of this machine with the content of `path`. Raises InputError and OSError."""
    if not is_url(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="melgpu-") as folder:
        place = Path(folder) / f"fetched{file_suffix(path)}"
        _download(path, place)
        yield place


def _download(url: str, place: Path) -> None:
    try:
        import fsspec
    except ImportError:
        raise InputError("URLs need fsspec: pip install 'melgpu[remote]'") from None
    for pause_s in (*RETRY_DELAYS_S, None):
        try:
            system, name = fsspec.core.url_to_fs(url)
            system.get_file(name, str(place))
            return
        except Exception as error:  # every protocol has errors of its own
            if pause_s is None or isinstance(error, FileNotFoundError | PermissionError | ValueError):
                raise InputError(f"cannot be fetched ({error})") from None
            time.sleep(pause_s)
