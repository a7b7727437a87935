import os

import numpy as np
from conftest import write_audio

from melgpu.bank import Bank
from melgpu.worker import decode_and_keep


def test_gives_back_what_was_put_and_nothing_else(tmp_path):
    path, bank = write_audio(tmp_path / "x.wav", 2), Bank(tmp_path / "bank", 8_000, 5.0)
    assert bank.get(path) is None
    wave = decode_and_keep(path, 8_000, 5.0, bank)
    np.testing.assert_array_equal(bank.get(path), wave)
    assert Bank(tmp_path / "bank", 8_000, 6.0).get(path) is None
    assert Bank(tmp_path / "bank", 16_000, 5.0).get(path) is None


def test_a_changed_file_is_decoded_again(tmp_path):
    path, bank = write_audio(tmp_path / "x.wav", 2), Bank(tmp_path / "bank", 8_000, 5.0)
    decode_and_keep(path, 8_000, 5.0, bank)
    os.utime(path, ns=(1, 1))
    assert bank.get(path) is None


def test_a_damaged_entry_counts_as_absent(tmp_path):
    path, bank = write_audio(tmp_path / "x.wav", 2), Bank(tmp_path / "bank", 8_000, 5.0)
    decode_and_keep(path, 8_000, 5.0, bank)
    (entry,) = (tmp_path / "bank").iterdir()
    entry.write_bytes(entry.read_bytes()[:200])
    assert bank.get(path) is None
    entry.write_bytes(b"")
    assert bank.get(path) is None
