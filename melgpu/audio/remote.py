"""Audio files at URLs (s3://, gs://, https://, ...), downloaded with fsspec, an optional dependency.

A URL is downloaded to a temporary file while it is read, so memory is bounded and every decoder works. In URLs of the
web `#` and `?` begin a fragment and a query, unless only what follows them ends as a file name does; elsewhere, as in
s3://, they are a part of the name.
"""

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from melgpu.errors import InputError, one_line

RETRY_DELAYS_S = (1, 4)  # between attempts at a download
SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
WEB_SCHEME = re.compile(r"https?://", re.IGNORECASE)
SUFFIX = re.compile(r"\.(?=[0-9]*[A-Za-z])[A-Za-z0-9]{1,8}$")  # not that of `Vol.2`
BUSY_STATUSES = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


def is_url(path: str) -> bool:
    return SCHEME.match(path) is not None


def absolute_path(path: str) -> str:
    """The absolute path of a path; a URL unchanged."""
    return path if is_url(path) else os.path.abspath(path)


def file_suffix(path: str) -> str:
    """The lower-case suffix of a path or URL, with its dot; the query and the fragment of a URL are ignored."""
    if not is_url(path):
        return PurePosixPath(path).suffix.lower()
    if WEB_SCHEME.match(path):
        return PurePosixPath(unquote(_web_path(path))).suffix.lower()
    return PurePosixPath(re.sub(r"[?#][\w.-]+=.*$", "", path)).suffix.lower()


def join_url(base: str, name: str) -> str:
    """The URL of a file below another URL; its name is encoded for the web, unless it is already."""
    if WEB_SCHEME.match(base):
        name = re.sub("%(?![0-9A-Fa-f]{2})", "%25", quote(name, safe="/%"))
    return f"{base.rstrip('/')}/{name}"


def _web_path(url: str) -> str:
    """A URL of the web without query and fragment; with them, where they are a part of the file's name."""
    path = re.split("[?#]", url, maxsplit=1)[0]
    is_named = SUFFIX.search(path.rpartition("/")[2]) is not None
    return url if not is_named and SUFFIX.search(url) and "=" not in url[len(path) :] else path


def _request_url(url: str) -> str:
    """A URL as fsspec takes it: scheme in lower case, and characters encoded that belong to the name of a file."""
    scheme, _, rest = url.partition("://")
    if not WEB_SCHEME.match(url):
        return f"{scheme.lower()}://{rest}"
    if _web_path(url) == url:
        rest = rest.replace("#", "%23").replace("?", "%3F")
    return f"{scheme.lower()}://{rest.replace('::', '%3A%3A')}"  # :: would chain file systems


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """A local file with the content of a path or URL. Raises InputError and OSError."""
    if not is_url(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="melgpu-") as folder:
        local_path = Path(folder) / f"download{file_suffix(path)}"  # for messages that name it
        _download(path, local_path)
        yield local_path


def _download(url: str, local_path: Path) -> None:
    try:
        import fsspec
    except ImportError:
        raise InputError("URLs need fsspec: pip install 'melgpu[remote]'") from None
    for delay_s in (*RETRY_DELAYS_S, None):  # None: no attempt follows
        try:
            filesystem, remote_path = fsspec.core.url_to_fs(_request_url(url))
            filesystem.get_file(remote_path, str(local_path))
            return
        except Exception as error:  # every protocol has its own exceptions
            if delay_s is None or _is_permanent(error):
                raise InputError(f"cannot be downloaded ({_reason(url, error)})") from None
            time.sleep(delay_s)


def _is_permanent(error: Exception) -> bool:
    """Whether another attempt would fail, too."""
    status = getattr(error, "status", None)  # of aiohttp's errors: what the web server answered
    if isinstance(status, int):
        return 400 <= status < 500 and status not in BUSY_STATUSES
    return isinstance(error, FileNotFoundError | PermissionError | ValueError)


def _reason(url: str, error: Exception) -> str:
    """What the server says, such as `403 Forbidden`."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return f"{status} {getattr(error, 'message', '')}".strip()
    if isinstance(error, FileNotFoundError):  # its text is the URL
        return "404 Not Found" if WEB_SCHEME.match(url) else "no such file"
    return one_line(error)
