"""What a decoding process runs: one file at a time to PCM in a file that its parent reads.

Free of torch, so that it starts fast.
"""

import os
import pickle
import resource
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from melgpu.audio.decode import conform, read_audio
from melgpu.audio.quarantine import AudioError

MAX_BYTES = 4 << 30  # what a decoder may take beyond the process's own; then the file is broken, not the machine


def check_file(path: str, sample_rate: int, num_samples: int) -> AudioError | None:
    """What is wrong with a file, found by decoding as much of it as a track needs; None where it is well."""
    return _read(path, sample_rate, num_samples)[1]


def decode_to_file(path: str, sample_rate: int, num_samples: int, target: str, offset: int) -> AudioError | None:
    """Decode a file, conform it to `num_samples` and write them, float32, into a file at an offset in bytes.

    Returns the file's flaw; of one that gives nothing nothing is written. Raises OSError (a full disk).
    """
    wave, audio_error = _read(path, sample_rate, num_samples)
    if len(wave):
        _write(conform(wave, num_samples), target, offset)
    return audio_error


def _read(path: str, sample_rate: int, num_samples: int) -> tuple[np.ndarray, AudioError | None]:
    try:
        sound = read_audio(path, sample_rate, num_samples / sample_rate)
    except MemoryError:
        return np.empty(0, np.float32), AudioError(path, "its decoder asks for more memory than is sane", 0.0)
    except Exception as error:  # a file that surprises its decoder is broken, not the run
        return np.empty(0, np.float32), AudioError(path, f"not readable as audio ({error})", 0.0)
    return sound.wave, AudioError(path, sound.error, round(len(sound.wave) / sample_rate, 1)) if sound.error else None


def _write(wave: np.ndarray, target: str, offset: int) -> None:
    data = memoryview(np.ascontiguousarray(wave)).cast("B")
    file = os.open(target, os.O_WRONLY)
    try:
        while data:
            written = os.pwrite(file, data, offset)
            data, offset = data[written:], offset + written
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(Path(target).resolve())) from None
    finally:
        os.close(file)


def serve(requests: int, lifeline: int) -> None:
    """A decoding process: answer (function, arguments) with (result, None) or (None, error) until the parent goes.

    `requests` is the descriptor of a socket, `lifeline` that of a pipe which ends with the parent. Ctrl-C is the
    parent's business.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    _limit_memory()
    connection = Connection(requests)
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = function(*arguments), None
        except Exception as error:
            answer = None, error
        try:
            connection.send(answer)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            connection.send((None, RuntimeError(f"{answer!r} cannot be sent ({error})")))


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MAX_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _end_with_parent(lifeline: int) -> None:
    """A busy worker would outlive a parent that is killed."""
    os.read(lifeline, 1)
    os._exit(1)
