"""Chromium without a window, driven by the DevTools protocol over a pipe."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe")
TIMEOUT_S = 240


class Browser:
    """One page of a browser of its own."""

    def __init__(self, profile: Path):
        command_read, self._command = os.pipe()
        self._reply, reply_write = os.pipe()
        # The protocol's pipes are descriptors 3 and 4; the shell gives them these numbers.
        shell = f'exec "$@" 3<&{command_read} 4>&{reply_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "chromium", CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(command_read, reply_write),
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(reply_write)
        self._unread = b""
        self._id = 0
        self._session: str | None = None
        (target, *_) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]

    def call(self, method: str, **params) -> dict:
        """The result of a command of the protocol."""
        self._id += 1
        message = {"id": self._id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._command, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._read()
            if reply.get("id") == self._id:
                assert "error" not in reply, reply
                return reply["result"]

    def _read(self) -> dict:
        while b"\0" not in self._unread:
            data = os.read(self._reply, 2**20)
            if not data:
                raise EOFError("the browser has ended")
            self._unread += data
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def open(self, url: str) -> None:
        self.call("Page.enable")
        self.resize(900)
        self.call("Page.navigate", url=url)

    def resize(self, width: int) -> None:
        """Make the window so many pixels wide."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=760, deviceScaleFactor=1, mobile=False)

    def evaluate(self, expression: str):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Return when a JavaScript expression is true. Raises AssertionError with the page's text after TIMEOUT_S."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, self.evaluate("document.body.innerText")
            time.sleep(0.2)

    def drop(self, *paths: Path, x: int = 450, y: int = 200) -> None:
        """Drag files into the page and drop them there."""
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        os.close(self._command)  # which ends it
        os.close(self._reply)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
