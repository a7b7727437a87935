"""A library of music with its expected answers, its frozen list, and the kill of a process that predicts a part."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet

from melgpu.prediction.frame_log import FRAME_HEADER
from tests.helpers import run_script

FLAGS = ("--device", "cpu")
# `python` is this one; in one thread, probabilities are the same to the bit.
ENV = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
KILL_LIMIT_S = 120
WAV_HEADER_BYTES = 44


@dataclass(frozen=True)
class Library:
    run: Path
    music: Path
    expected: pyarrow.Table

    def freeze(self, folder: Path, num_parts: int) -> Path:
        """The frozen list of the music, in a folder."""
        tracks = folder / "tracks.txt"
        process = run_script("predict.py", "--list", self.music, "--write-list", tracks, "--parts", num_parts)
        assert process.returncode == 0, process.stderr
        return tracks


def differing_columns(path: Path, expected: pyarrow.Table) -> list[str]:
    """The columns of a table that are not equal to the expected ones, to the bit."""
    actual = pyarrow.parquet.read_table(path)
    assert actual.schema.equals(expected.schema)
    return [name for name in expected.column_names if not actual[name].equals(expected[name])]


@contextlib.contextmanager
def silenced(paths: Sequence[Path]) -> Iterator[None]:
    """Files whose samples are zeros in this block, of the same size and time, so that a log of them stays valid."""
    originals = [path.read_bytes() for path in paths]
    for path, content in zip(paths, originals, strict=True):
        _overwrite(path, content[:WAV_HEADER_BYTES].ljust(len(content), b"\0"))
    try:
        yield
    finally:
        for path, content in zip(paths, originals, strict=True):
            _overwrite(path, content)


def _overwrite(path: Path, content: bytes) -> None:
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def kill_midway(folder: Path, part: int, marker: bytes) -> None:
    """Kill the process of a part by -9 when it has logged a batch, before it has logged all.

    `folder` has the parts; `marker` is in the process's arguments or its environment.
    """
    deadline = time.monotonic() + KILL_LIMIT_S
    while time.monotonic() < deadline:
        pid = _find(marker)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)  # so that it gets no further while its log is read
                if _num_logged_batches(folder, part):
                    assert not list(folder.glob(f"part-{part:05}.*")), "it was too fast to be killed"
                    os.kill(pid, signal.SIGKILL)
                    return
                os.kill(pid, signal.SIGCONT)
        time.sleep(0.005)
    raise AssertionError(f"no process with {marker!r} has logged a batch within {KILL_LIMIT_S} s")


def _find(marker: bytes) -> int | None:
    """The process of predict.py with a marker; of several, which it has started, the first."""
    for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            arguments = (entry / "cmdline").read_bytes()
            if b"\0predict.py\0" in arguments and marker in arguments + (entry / "environ").read_bytes():
                return int(entry.name)
    return None


def _num_logged_batches(folder: Path, part: int) -> int:
    """Batches in the resume log of a part; its first frame is metadata, and its last one may be incomplete."""
    path = folder / f".part-{part:05}.chunk.resume_log"
    content = path.read_bytes() if path.exists() else b""
    num_frames = 0
    end = 0
    while end + FRAME_HEADER.size <= len(content):
        length, _ = FRAME_HEADER.unpack_from(content, end)
        end += FRAME_HEADER.size + length
        num_frames += end <= len(content)
    return max(0, num_frames - 1)
