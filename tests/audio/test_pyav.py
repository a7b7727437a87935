from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from melgpu.audio import pyav
from melgpu.audio.blocks import open_file
from melgpu.audio.decode import decode
from melgpu.audio.parts import FileSlice, Part
from melgpu.errors import InputError
from tests.helpers import run_script, write_audio
from tests.helpers.malformed_files import write_container


@contextmanager
def whole(path: Path) -> Iterator[tuple[FileSlice, Part]]:
    """A file as one part of which nothing is known."""
    size = path.stat().st_size
    with open_file(path) as file:
        yield FileSlice(file, 0, size), Part(0, size)


@pytest.mark.parametrize("suffix", [".m4a", ".aac", ".wma"])
@pytest.mark.parametrize("channels", [1, 2])
def test_containers_are_decoded(tmp_path, suffix, channels):
    wave = decode(write_container(tmp_path / f"x{suffix}", 8, channels=channels), 22_050, 60)
    assert len(wave) / 22_050 == pytest.approx(8, abs=0.2)
    spectrum = np.abs(np.fft.rfft(wave[22_050 : 3 * 22_050] * np.hanning(2 * 22_050)))
    assert np.argmax(spectrum) / 2 == pytest.approx(440, abs=1)
    assert 0.2 < np.abs(wave[22_050:-22_050]).max() < 0.6


def test_blocks_are_decoded_lazily(tmp_path):
    with whole(write_container(tmp_path / "x.m4a", 8)) as (file, part):
        rate, block = next(pyav.decode_blocks(file, part))
    assert (rate, block.shape[1], block.dtype) == (44_100, 1, np.float32)
    assert len(block) <= 1 << 14


@pytest.mark.parametrize("start", [1, 1023, 50_000, 10**9])
def test_frames_before_the_start_are_left_out(tmp_path, start):
    with whole(write_container(tmp_path / "x.m4a", 3)) as (file, part):
        complete = np.concatenate([block for _, block in pyav.decode_blocks(file, part)])
        rest = [block for _, block in pyav.decode_blocks(file, part, start)]
    np.testing.assert_array_equal(np.concatenate([complete[:0], *rest]), complete[start:])


def test_duration_from_the_header(tmp_path):
    with whole(write_container(tmp_path / "x.m4a", 8)) as (file, _):
        assert pyav.header_duration_s(file) == pytest.approx(8, abs=0.2)


def test_a_file_that_is_no_container_is_rejected(tmp_path):
    (tmp_path / "x.wma").write_bytes(b"no audio" * 100)
    with whole(tmp_path / "x.wma") as (file, part), pytest.raises(InputError, match="not readable as audio"):
        list(pyav.decode_blocks(file, part))


def test_a_playlist_opens_no_other_file(tmp_path):
    song = write_audio(tmp_path / "song.wav", 3)
    (tmp_path / "x.mp3").write_text(f"ffconcat version 1.0\nfile {song.name}\n")
    (tmp_path / "y.mp3").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{song.name}\n#EXT-X-ENDLIST\n")
    for name in ("x.mp3", "y.mp3"):
        with pytest.raises(InputError, match="of no known format"):
            decode(tmp_path / name, 22_050, 60)


def test_packets_that_are_damaged_at_the_ends_are_left_out(tmp_path):
    data = write_container(tmp_path / "x.aac", 8).read_bytes()
    (tmp_path / "x.aac").write_bytes(data[100:-50])  # as a recording of a stream
    assert len(decode(tmp_path / "x.aac", 22_050, 60)) / 22_050 == pytest.approx(8, abs=0.2)


def test_without_pyav_the_other_files_are_decoded(tmp_path):
    write_container(tmp_path / "x.m4a", 1)
    write_audio(tmp_path / "x.wav", 1)
    imports = "import sys; sys.modules['av'] = None; from melgpu.audio.decode import decode"
    assert run_script("-c", f"{imports}; decode('{tmp_path}/x.wav', 8000, 5)").returncode == 0
    result = run_script("-c", f"{imports}; decode('{tmp_path}/x.m4a', 8000, 5)")
    assert "x.m4a: it needs PyAV, which is not installed: pip install av" in result.stderr
