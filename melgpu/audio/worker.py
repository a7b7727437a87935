"""The main loop and the functions of a decoding worker process, which writes PCM to a file that its parent reads.

Does not import torch, so that it starts fast.
"""

import os
import pickle
import resource
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from melgpu.audio import fingerprint
from melgpu.audio.decode import DecodedAudio, conform, read_audio
from melgpu.audio.parts import UNREADABLE
from melgpu.audio.quarantine import AudioError

MAX_BYTES = 4 << 30  # address space of a decoder, beyond that of the process; a file that needs more has an error
NICENESS = 5  # added: the process that feeds the device comes first where both want a core


@dataclass(frozen=True)
class CheckedFile:
    """What decoding as much of a file as a track needs tells of it.

    error : its audio error, None if it has none
    fingerprint : of the conformed track, `audio.fingerprint.track_fingerprint`, shape (F,)
    """

    error: AudioError | None
    fingerprint: np.ndarray


def check_file(path: str, sample_rate: int, num_samples: int, min_s: float = 0.0) -> CheckedFile:
    """Decode a file as a track of `num_samples`, and keep nothing of it."""
    audio = read_track(path, sample_rate, num_samples / sample_rate, min_s)
    return checked_file(path, sample_rate, num_samples, audio)


def check_to_file(
    path: str, sample_rate: int, num_samples: int, target: str, offset: int, min_s: float = 0.0
) -> CheckedFile:
    """`check_file` that also writes what `decode_to_file` writes."""
    audio = read_track(path, sample_rate, num_samples / sample_rate, min_s)
    if len(audio.wave):
        _write(conform(audio.wave, num_samples), target, offset)
    return checked_file(path, sample_rate, num_samples, audio)


def check_written(
    error: AudioError | None, sample_rate: int, num_samples: int, target: str, offset: int
) -> CheckedFile:
    """What `check_to_file` returned, of a track that it wrote earlier and of which the error was kept."""
    size = fingerprint.excerpt_samples(sample_rate, num_samples)
    wave = np.fromfile(target, np.float32, size, offset=offset)
    return CheckedFile(error, fingerprint.track_fingerprint(wave, sample_rate, num_samples))


def checked_file(path: str, sample_rate: int, num_samples: int, audio: DecodedAudio) -> CheckedFile:
    """Of a file that was decoded."""
    prints = fingerprint.track_fingerprint(audio.wave, sample_rate, num_samples)
    return CheckedFile(_audio_error(path, sample_rate, audio), prints)


def decode_to_file(
    path: str, sample_rate: int, num_samples: int, target: str, offset: int, min_s: float = 0.0
) -> AudioError | None:
    """Decode a file, conform it to `num_samples` and write them, float32, into a file at an offset in bytes.

    Returns the file's error, if any; nothing is written if there is no usable audio. Raises OSError (a full disk).
    """
    audio = read_track(path, sample_rate, num_samples / sample_rate, min_s)
    if len(audio.wave):
        _write(conform(audio.wave, num_samples), target, offset)
    return _audio_error(path, sample_rate, audio)


def read_track(path: str | Path, sample_rate: int, track_s: float, min_s: float) -> DecodedAudio:
    """`read_audio` where whatever a decoder raises is an error of the file, not of the run."""
    try:
        return read_audio(path, sample_rate, track_s, min_s)
    except MemoryError:  # of `_limit_memory`
        reason = "its decoder exceeds the memory limit"
    except Exception as error:
        reason = f"{UNREADABLE} ({error})"
    return DecodedAudio(np.empty(0, np.float32), 0, 0, reason)


def _audio_error(path: str, sample_rate: int, audio: DecodedAudio) -> AudioError | None:
    if not audio.error:
        return None
    return AudioError(path, audio.error, round(len(audio.wave) / sample_rate, 1))


def _write(wave: np.ndarray, target: str, offset: int) -> None:
    data = np.ascontiguousarray(wave).data.cast("B")
    file = os.open(target, os.O_WRONLY)
    try:
        while data:
            written = os.pwrite(file, data, offset)  # possibly fewer bytes than asked for
            data = data[written:]
            offset += written
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(Path(target).resolve())) from None
    finally:
        os.close(file)


def serve(connection_fd: int, parent_alive_fd: int) -> None:
    """Main loop: receive (function, arguments), send (result, None) or (None, exception), until the parent exits.

    `connection_fd` is the descriptor of a socket, `parent_alive_fd` that of a pipe which ends when the parent exits.
    Ctrl-C and SIGTERM are handled by the parent: a batch system or a service manager sends them to all processes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(parent_alive_fd,), daemon=True).start()
    os.nice(NICENESS)
    _limit_memory()
    connection = Connection(connection_fd)
    response: tuple[object, Exception | None]
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            response = function(*arguments), None
        except Exception as error:
            response = None, error
        try:
            connection.send(response)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            connection.send((None, RuntimeError(f"{response!r} cannot be sent ({error})")))


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])  # of the whole address space
    soft = pages * resource.getpagesize() + MAX_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)  # a soft limit above the hard one is refused
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _exit_with_parent(parent_alive_fd: int) -> None:
    """Exit when the parent does; a busy worker would outlive a parent that is killed."""
    os.read(parent_alive_fd, 1)  # blocks until the pipe ends
    os._exit(1)  # sys.exit would end this thread only
