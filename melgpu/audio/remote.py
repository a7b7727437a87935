"""Audio files at URLs (s3://, gs://, https://, ...), downloaded with fsspec, an optional dependency.

A URL is downloaded to a temporary file while it is read, so memory is bounded and every decoder works.
"""

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from melgpu.errors import InputError

RETRY_DELAYS_S = (1, 4)  # between attempts at a download


def is_url(path: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", path) is not None


def absolute_path(path: str) -> str:
    """The absolute path of a path; a URL unchanged."""
    return path if is_url(path) else os.path.abspath(path)


def file_suffix(path: str) -> str:
    """The lower-case suffix of a path or URL, with its dot; a URL's query is ignored."""
    path_without_query = path.split("?")[0] if is_url(path) else path
    return PurePosixPath(path_without_query).suffix.lower()


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """A local file with the content of a path or URL. Raises InputError and OSError."""
    if not is_url(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="melgpu-") as folder:
        local_path = Path(folder) / f"download{file_suffix(path)}"  # the suffix selects the decoder
        _download(path, local_path)
        yield local_path


def _download(url: str, local_path: Path) -> None:
    try:
        import fsspec
    except ImportError:
        raise InputError("URLs need fsspec: pip install 'melgpu[remote]'") from None
    for delay_s in (*RETRY_DELAYS_S, None):  # None: no attempt follows
        try:
            filesystem, remote_path = fsspec.core.url_to_fs(url)
            filesystem.get_file(remote_path, str(local_path))
            return
        except Exception as error:  # every protocol has its own exceptions
            is_permanent = isinstance(error, FileNotFoundError | PermissionError | ValueError)
            if delay_s is None or is_permanent:
                raise InputError(f"cannot be downloaded ({error})") from None
            time.sleep(delay_s)
