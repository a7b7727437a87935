import numpy as np
import pytest

from melgpu.audio import pyav
from melgpu.audio.decode import decode
from melgpu.errors import InputError
from tests.helpers import run_script
from tests.helpers.malformed_files import write_container


@pytest.mark.parametrize("suffix", [".m4a", ".aac", ".wma"])
@pytest.mark.parametrize("channels", [1, 2])
def test_containers_are_decoded(tmp_path, suffix, channels):
    wave = decode(write_container(tmp_path / f"x{suffix}", 8, channels=channels), 22_050, 60)
    assert len(wave) / 22_050 == pytest.approx(8, abs=0.2)
    spectrum = np.abs(np.fft.rfft(wave[22_050 : 3 * 22_050] * np.hanning(2 * 22_050)))
    assert np.argmax(spectrum) / 2 == pytest.approx(440, abs=1)
    assert 0.2 < np.abs(wave[22_050:-22_050]).max() < 0.6


def test_blocks_are_decoded_lazily(tmp_path):
    blocks = pyav.decode_blocks(write_container(tmp_path / "x.m4a", 8))
    rate, block = next(blocks)
    assert (rate, block.shape[1], block.dtype) == (44_100, 1, np.float32)
    assert len(block) <= 4096


def test_duration_from_the_header(tmp_path):
    assert pyav.header_duration_s(write_container(tmp_path / "x.m4a", 8)) == pytest.approx(8, abs=0.2)


def test_a_file_that_is_no_container_is_rejected(tmp_path):
    (tmp_path / "x.wma").write_bytes(b"no audio" * 100)
    with pytest.raises(InputError, match="not readable as audio"):
        list(pyav.decode_blocks(tmp_path / "x.wma"))


def test_the_error_without_pyav_names_the_extra(tmp_path):
    write_container(tmp_path / "x.m4a", 1)
    imports = "import sys; sys.modules['av'] = None; from melgpu.audio.decode import decode"
    code = f"{imports}; decode('{tmp_path}/x.m4a', 8000, 5)"
    result = run_script("-c", code)
    assert "x.m4a: .m4a files need PyAV: pip install 'melgpu[containers]'" in result.stderr
