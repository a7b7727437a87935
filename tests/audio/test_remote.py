import functools
import http.server
import threading

import numpy as np
import pytest

from melgpu.audio import remote
from melgpu.audio.decode import DecodeError, decode
from melgpu.errors import InputError
from tests.helpers import run_script, write_audio


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def base_url(tmp_path):
    """The URL of a web server for the files below tmp_path."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_urls_and_paths():
    for url in ("s3://bucket/a.mp3", "https://x.org/a.mp3?b=c", "gs://a/b", "memory://x"):
        assert remote.is_url(url)
    for path in ("/a/b.mp3", "a.mp3", "C:/a.mp3", "a://", "://a", "a b://c"):
        assert not remote.is_url(path) or path == "a://"


@pytest.mark.parametrize(
    ("path", "suffix"),
    [
        ("https://x.org/a.MP3?b=c.txt", ".mp3"),
        ("https://x.org/a.mp3#t=10", ".mp3"),
        ("https://x.org/a#1.mp3", ".mp3"),
        ("https://x.org/what?.mp3", ".mp3"),
        ("https://x.org/Vol.2#1.mp3", ".mp3"),
        ("https://x.org/get?id=3&f=a.mp3", ""),
        ("https://x.org/a%20b%2Eogg", ".ogg"),
        ("s3://bucket/a#1.mp3", ".mp3"),
        ("s3://bucket/what?.mp3", ".mp3"),
        ("s3://bucket/a.mp3?versionId=3.5", ".mp3"),
        ("a?b.ogg", ".ogg"),
    ],
)
def test_the_suffix_is_that_of_the_name(path, suffix):
    assert remote.file_suffix(path) == suffix


NAMES = ["a #1.wav", "what?.wav", "100%.wav", "nhạc số.wav", "a::b.wav", "c+d&e=f.wav", "g;h.wav"]


@pytest.mark.parametrize("name", NAMES)
def test_files_of_any_name_are_found_below_a_url(tmp_path, base_url, name):
    (tmp_path / "music").mkdir()
    path = write_audio(tmp_path / "music" / name, 1)
    with remote.local_copy(remote.join_url(f"{base_url}/music/", name)) as local_path:
        assert local_path.read_bytes() == path.read_bytes()
        assert local_path.suffix == ".wav"


@pytest.mark.parametrize("name", ["a#1.wav", "what?.wav", "a::b.wav"])
def test_signs_in_the_name_of_a_url_are_a_part_of_it(tmp_path, base_url, name):
    path = write_audio(tmp_path / name, 1)
    for url in (f"{base_url}/{name}", f"{base_url.upper()}/{name}"):
        with remote.local_copy(url) as local_path:
            assert local_path.read_bytes() == path.read_bytes()


def test_a_name_that_is_encoded_stays_so():
    assert remote.join_url("https://x.org/m", "a%20b#.mp3") == "https://x.org/m/a%20b%23.mp3"
    assert remote.join_url("s3://b/m/", "a b#?.mp3") == "s3://b/m/a b#?.mp3"


@pytest.mark.parametrize(("status", "reason"), [(404, "404 Not Found"), (403, "403 Forbidden"), (410, "410 Gone")])
def test_the_error_has_the_servers_reason_and_is_not_retried(base_url, monkeypatch, status, reason):
    requests = []

    def send_head(self):
        requests.append(self.path)
        return self.send_error(status)

    monkeypatch.setattr(QuietHandler, "send_head", send_head)
    with pytest.raises(InputError, match=reason), remote.local_copy(f"{base_url}/x.wav"):
        pass
    assert len(requests) == 1


def test_a_url_is_decoded_like_its_file(tmp_path, base_url):
    path = write_audio(tmp_path / "x.mp3", 2)
    for url in (f"{base_url}/x.mp3", f"{base_url}/x.mp3?token=1", f"file://{path}"):
        np.testing.assert_array_equal(decode(url, 8_000, 5), decode(path, 8_000, 5))
    with remote.local_copy(f"{base_url}/x.mp3") as local_path:
        assert local_path.read_bytes() == path.read_bytes()
    assert not local_path.exists()


def test_a_failed_download_is_retried(tmp_path, base_url, monkeypatch):
    write_audio(tmp_path / "x.wav", 1)
    statuses = iter([503, 200, 503, 503, 503])
    original = QuietHandler.send_head

    def send_head(self):
        return original(self) if next(statuses) == 200 else self.send_error(503)

    monkeypatch.setattr(QuietHandler, "send_head", send_head)
    monkeypatch.setattr(QuietHandler, "do_HEAD", lambda self: self.send_error(405))
    monkeypatch.setattr(remote, "RETRY_DELAYS_S", (0.01, 0.01))
    with remote.local_copy(f"{base_url}/x.wav") as local_path:
        assert local_path.read_bytes() == (tmp_path / "x.wav").read_bytes()
    with pytest.raises(InputError, match="503 Service Unavailable"), remote.local_copy(f"{base_url}/x.wav"):
        pass
    assert next(statuses, None) is None


def test_the_error_of_a_failed_download_names_the_url(base_url):
    with pytest.raises(DecodeError, match=r"absent\.mp3: cannot be downloaded"):
        decode(f"{base_url}/absent.mp3", 8_000, 5)
    with (
        pytest.raises(InputError, match=r"cannot be downloaded \(no such file\)"),
        remote.local_copy("memory://absent"),
    ):
        pass
    with pytest.raises(InputError, match="cannot be downloaded"), remote.local_copy("nonsense://x/y.mp3"):
        pass


def test_the_error_without_fsspec_names_the_extra():
    imports = "import sys; sys.modules['fsspec'] = None; from melgpu.audio.decode import decode"
    code = f"{imports}; decode('s3://b/x.mp3', 8000, 5)"
    assert "s3://b/x.mp3: URLs need fsspec: pip install 'melgpu[remote]'" in run_script("-c", code).stderr
