"""The page that classifies music, in a real browser; the audio must not leave it."""

import functools
import http.server
import json
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from melgpu.export import exporter
from melgpu.export.metadata import ExportOptions
from melgpu.prediction.api import load
from tests.examples.chromium import CHROMIUM, Browser
from tests.helpers import ROOT, write_audio
from tests.helpers.runs import write_run

PAGE = ROOT / "examples" / "onnx_browser"
STATUS = "document.getElementById('status')"
RATE = 22_050  # browsers decode at no less than 8,000 Hz


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and keeps what was asked of it."""

    requests: list[str] = []  # noqa: RUF012

    def log_message(self, format, *args):
        self.requests.append(self.requestline)


@pytest.fixture(scope="module")
def npm_package(tmp_path_factory) -> Path:
    """The package onnxruntime-web in the version of the example."""
    folder = tmp_path_factory.mktemp("npm")
    (name, version), *_ = json.loads((PAGE / "package.json").read_text())["dependencies"].items()
    if not shutil.which("npm"):
        pytest.skip("no npm: apt-get install npm")
    command = ["npm", "pack", "--silent", f"{name}@{version}"]
    packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    if packed.returncode:
        pytest.skip(f"npm cannot get {name}: {packed.stderr.strip()[-300:]}")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / "package"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def site_folder(npm_package, run, tmp_path_factory) -> Path:
    """A folder of the page, with a network beside it."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(PAGE / "index.html", folder)
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "onnxruntime-web").symlink_to(npm_package)
    options = ExportOptions("onnx", "windows", "float32")
    exporter.export_network(run, run.jobs(1)[0], options, folder / "model.onnx", [])
    return folder


@pytest.fixture(scope="module")
def site(site_folder) -> Iterator[str]:
    """The address of the page."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site_folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def browser(tmp_path) -> Iterator[Browser]:
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


@pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium")
def test_a_dropped_song_is_classified_and_never_sent(site, run, browser, tmp_path):
    song = write_audio(tmp_path / "song.mp3", 5, RATE, 2, seed=3)
    (expected,) = load(run.folder, "cpu").predict([song])
    browser.open(f"{site}/index.html")
    browser.wait_for(f"{STATUS}?.textContent.startsWith('Ready')")
    before = len(Handler.requests)
    browser.drop(song)
    browser.wait_for("document.querySelectorAll('#result li').length > 0")
    rows = (
        "[...document.querySelectorAll('#result li')].map(row => [row.dataset.name, Number(row.dataset.probability)])"
    )
    actual = dict(browser.evaluate(rows))
    assert actual == pytest.approx(expected.probabilities, abs=0.05)
    assert max(actual, key=actual.get) == next(iter(actual)) == expected.label
    assert browser.evaluate(f"{STATUS}.textContent") == "song.mp3"
    browser.drop(write_audio(tmp_path / "long.ogg", 9, RATE, seed=4))
    browser.wait_for(f"{STATUS}.textContent === 'long.ogg, its first 6 s'")
    browser.resize(320)
    root = "document.documentElement"
    assert browser.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0  # nothing is beside the window
    sent = "fetch('https://example.org', {method: 'POST', body: 'x'}).then(() => 'sent', () => 'refused')"
    assert browser.evaluate(sent) == "refused"  # by the page's policy
    assert all(line.startswith("GET ") for line in Handler.requests)
    assert not any("song" in line for line in Handler.requests[before:])


@pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium")
def test_errors_are_shown_on_the_page(site, browser, tmp_path):
    browser.open(f"{site}/index.html?model=other.onnx")
    browser.wait_for(f"{STATUS}?.className === 'error'")
    assert "other.onnx is not beside this page: melgpu-export" in browser.evaluate(f"{STATUS}.textContent")
    browser.open(f"{site}/index.html")
    browser.wait_for(f"{STATUS}?.textContent.startsWith('Ready')")
    notes = tmp_path / "notes.mp3"
    notes.write_text("no music")
    browser.drop(notes)
    browser.wait_for(f"{STATUS}.className === 'error'")
    assert browser.evaluate(f"{STATUS}.textContent") == "notes.mp3: this browser cannot read it as audio"
    browser.drop(notes, notes)
    browser.wait_for(f"{STATUS}.textContent === '2 files: one song at a time'")


@pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium")
def test_a_file_that_is_no_whole_network_is_named(site, site_folder, browser):
    whole = (site_folder / "model.onnx").read_bytes()
    for name, content in (("empty", b""), ("text", b"version https://git-lfs"), ("cut", whole[: len(whole) // 2])):
        (site_folder / f"{name}.onnx").write_bytes(content)
        browser.open(f"{site}/index.html?model={name}.onnx")
        browser.wait_for(f"{STATUS}?.textContent === '{name}.onnx is not a whole file of melgpu-export'")


@pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium")
def test_a_page_that_no_server_serves_says_so(site_folder, browser):
    browser.open(f"file://{site_folder}/index.html")
    browser.wait_for(f"{STATUS}?.className === 'error'")
    assert browser.evaluate(f"{STATUS}.textContent").endswith("python3 -m http.server")
