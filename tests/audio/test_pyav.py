import numpy as np
import pytest

from melgpu.audio import pyav
from melgpu.audio.decode import decode
from melgpu.errors import InputError
from tests.helpers import call
from tests.helpers.odd_files import write_container


@pytest.mark.parametrize("suffix", [".m4a", ".aac", ".wma"])
@pytest.mark.parametrize("channels", [1, 2])
def test_containers_give_their_music(tmp_path, suffix, channels):
    wave = decode(write_container(tmp_path / f"x{suffix}", 8, channels=channels), 22_050, 60)
    assert len(wave) / 22_050 == pytest.approx(8, abs=0.2)
    spectrum = np.abs(np.fft.rfft(wave[22_050 : 3 * 22_050] * np.hanning(2 * 22_050)))
    assert np.argmax(spectrum) / 2 == pytest.approx(440, abs=1)
    assert 0.2 < np.abs(wave[22_050:-22_050]).max() < 0.6


def test_no_more_is_decoded_than_is_taken(tmp_path):
    blocks = pyav.decode_blocks(write_container(tmp_path / "x.m4a", 8))
    rate, block = next(blocks)
    assert (rate, block.shape[1], block.dtype) == (44_100, 1, np.float32)
    assert len(block) <= 4096


def test_lengths_by_the_header(tmp_path):
    assert pyav.header_duration_s(write_container(tmp_path / "x.m4a", 8)) == pytest.approx(8, abs=0.2)


def test_a_container_without_music_is_refused(tmp_path):
    (tmp_path / "x.wma").write_bytes(b"no music" * 100)
    with pytest.raises(InputError, match="not readable as audio"):
        list(pyav.decode_blocks(tmp_path / "x.wma"))


def test_without_the_extra_its_name_is_said(tmp_path):
    write_container(tmp_path / "x.m4a", 1)
    imports = "import sys; sys.modules['av'] = None; from melgpu.audio.decode import decode"
    code = f"{imports}; decode('{tmp_path}/x.m4a', 8000, 5)"
    result = call("-c", code)
    assert "x.m4a: .m4a files need PyAV: pip install 'melgpu[containers]'" in result.stderr
