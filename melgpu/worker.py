"""What a decoding process runs: one file to PCM, remembered in the bank. Free of torch, so that it starts fast."""

import multiprocessing
import os
import signal
import threading
from pathlib import Path

import numpy as np

from melgpu.bank import Bank
from melgpu.decode import DecodeError, decode


def decode_and_keep(path: Path, sample_rate: int, max_s: float, bank: Bank | None) -> np.ndarray:
    """`decode`, with a copy for the bank. Raises DecodeError."""
    wave = decode(path, sample_rate, max_s)
    if bank:
        bank.put(path, wave)
    return wave


def problem(path: Path, sample_rate: int, max_s: float) -> str | None:
    """Why a file cannot be decoded; None where it can."""
    try:
        decode(path, sample_rate, max_s)
    except DecodeError as error:
        return str(error)
    return None


def start() -> None:
    """Make this process a worker: Ctrl-C is its parent's business, and it ends when its parent does (kill -9 too)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
