"""Files of other programs give all of their music, whatever a header says; or the error that says what is missing.

References are the samples that a file was made from, and of mp3 and Vorbis an intact file in libsndfile's decoder.
"""

import math
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from melgpu.audio.blocks import header_duration_s
from melgpu.audio.decode import read_audio, stream_audio
from tests.helpers.foreign_files import (
    RATE,
    SECONDS,
    ape_tag,
    encode,
    flac_of_total,
    id3_tag,
    music,
    pcm,
    vbr_mp3,
    wav,
    with_xing_frames,
    without_xing,
    write_sound,
)

FILES = Path(__file__).parent / "files"
MAX_FRAME = 2048  # samples of the codecs here
LAME_DELAY = 576 + 529  # samples, of its encoder and of any decoder
MAX_DELAY = 3 * 1152  # of mp3 without LAME's tag: delay, padding, and a frame that rounds up


def read(path: Path, rate: int = RATE) -> np.ndarray:
    """The whole file, mono, at its own rate; the stream and the header's length say the same."""
    audio = read_audio(path, rate, 1000.0, 0.5)
    assert audio.error is None, audio.error
    assert audio.source_rate == rate
    streamed = np.concatenate(list(stream_audio(path, rate, 0.5)))
    assert len(streamed) == len(audio.wave)
    np.testing.assert_allclose(streamed, audio.wave, atol=2e-6)
    assert header_duration_s(path) == pytest.approx(len(audio.wave) / rate, abs=0.15)
    return audio.wave


def assert_equal(wave: np.ndarray, source: np.ndarray, atol: float = 1e-6) -> None:
    assert len(wave) == len(source)
    np.testing.assert_allclose(wave, source.mean(axis=1) if source.ndim == 2 else source, atol=atol)


def assert_similar(wave: np.ndarray, source: np.ndarray, min_correlation: float = 0.99) -> None:
    """Of lossy codecs: the same music, aligned."""
    expected = source.mean(axis=1)
    assert abs(len(wave) - len(expected)) <= MAX_FRAME
    size = 1 << math.ceil(math.log2(len(wave) + len(expected)))
    products = np.fft.irfft(np.fft.rfft(wave, size) * np.conj(np.fft.rfft(expected, size)))
    lag = int(np.argmax(products))
    lag = lag - size if lag > size // 2 else lag
    assert abs(lag) <= MAX_FRAME
    shifted, expected = wave[max(0, lag) :], expected[max(0, -lag) :]
    num_samples = min(len(shifted), len(expected))
    assert np.corrcoef(shifted[:num_samples], expected[:num_samples])[0, 1] > min_correlation


def quiet_then_loud() -> np.ndarray:
    """Music whose first frames have the lowest bit rate: an estimate from them is far too long."""
    return music(seed=1) * np.repeat([1e-4, 1.0], round(SECONDS * RATE / 2))[:, None]


@pytest.mark.parametrize("wave", [music(), music()[::-1], quiet_then_loud(), quiet_then_loud()[::-1]])
def test_mp3_of_variable_bit_rate_without_a_xing_header(tmp_path, wave):
    mp3 = vbr_mp3(tmp_path, wave)
    (tmp_path / "x.mp3").write_bytes(without_xing(mp3))
    decoded = read(tmp_path / "x.mp3")
    intact, _ = soundfile.read(tmp_path / "made.mp3", dtype="float32", always_2d=True)
    assert 0 <= len(decoded) - len(intact) <= MAX_DELAY
    np.testing.assert_allclose(decoded[LAME_DELAY:][: len(intact)], intact.mean(axis=1), atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [lambda _: 0, lambda count: 1, lambda count: count // 3, lambda count: count - 5],
    ids=["unknown", "one", "a third", "five less"],
)
def test_a_xing_header_with_too_few_frames_is_not_believed(tmp_path, change):
    mp3 = vbr_mp3(tmp_path, music())
    intact, _ = soundfile.read(tmp_path / "made.mp3", dtype="float32", always_2d=True)
    (tmp_path / "x.mp3").write_bytes(with_xing_frames(mp3, change))
    assert_equal(read(tmp_path / "x.mp3"), intact, 1e-3)


def test_a_xing_header_with_too_many_frames_is_no_error(tmp_path):
    mp3 = vbr_mp3(tmp_path, music())
    intact, _ = soundfile.read(tmp_path / "made.mp3", dtype="float32", always_2d=True)
    (tmp_path / "x.mp3").write_bytes(with_xing_frames(mp3, lambda count: 2 * count))
    wave = read(tmp_path / "x.mp3")
    assert 0 <= len(wave) - len(intact) <= 1152
    assert_equal(wave[: len(intact)], intact, 1e-3)


def test_a_cut_mp3_is_an_error_in_length(tmp_path):
    mp3 = vbr_mp3(tmp_path, music())
    (tmp_path / "x.mp3").write_bytes(mp3[: len(mp3) * 2 // 5])
    audio = read_audio(tmp_path / "x.mp3", RATE, 60)
    assert audio.error.startswith("its header claims 4.0 s and it contains 1.")
    assert 1 < len(audio.wave) / RATE < 2.5
    assert read_audio(tmp_path / "x.mp3", RATE, 1.0).error is None  # its beginning has all that is needed


def test_tags_around_an_mp3_are_no_music(tmp_path):
    mp3 = vbr_mp3(tmp_path, music())
    intact = read(tmp_path / "made.mp3")
    (tmp_path / "x.mp3").write_bytes(id3_tag(3000) + id3_tag(100_000) + mp3 + ape_tag(50_000) + b"TAG" + bytes(125))
    assert_equal(read(tmp_path / "x.mp3"), intact)
    (tmp_path / "y.mp3").write_bytes(id3_tag(3000) + without_xing(mp3) + ape_tag(50_000))
    assert abs(len(read(tmp_path / "y.mp3")) - len(intact)) <= MAX_DELAY


@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".opus", ".flac"])
def test_joined_files_give_every_part(tmp_path, suffix):
    rate = 48_000 if suffix == ".opus" else RATE
    options = {"bitrate_mode": "VARIABLE"} if suffix == ".mp3" else {}
    sources = [music(seconds, rate, seed=seed) for seed, seconds in enumerate((3, 1.5, 2))]
    names = [tmp_path / f"{i}{suffix}" for i in range(3)]
    data = [write_sound(name, source, rate, **options) for name, source in zip(names, sources, strict=True)]
    expected = [soundfile.read(name, dtype="float32", always_2d=True)[0].mean(axis=1) for name in names]
    (tmp_path / f"x{suffix}").write_bytes(b"".join(data))
    audio = read_audio(tmp_path / f"x{suffix}", rate, 60)
    assert audio.error is None
    assert_equal(audio.wave, np.concatenate(expected), 1e-3)
    assert_similar(audio.wave, np.concatenate(sources))
    assert_equal(read_audio(tmp_path / f"x{suffix}", rate, 3.5).wave, audio.wave[: round(3.5 * rate)])
    (tmp_path / f"twice{suffix}").write_bytes(data[0] * 2)
    assert_equal(read_audio(tmp_path / f"twice{suffix}", rate, 60).wave, np.concatenate([expected[0]] * 2), 1e-3)


def test_a_chain_of_other_formats_is_an_error_after_the_first(tmp_path):
    first = write_sound(tmp_path / "a.ogg", music(2))
    (tmp_path / "x.ogg").write_bytes(first + write_sound(tmp_path / "b.ogg", music(2, 48_000), 48_000))
    audio = read_audio(tmp_path / "x.ogg", RATE, 60)
    assert audio.error == "changes after 2.0 s from 44100 Hz, 2 channels to 48000 Hz, 2; the rest is left out"
    assert len(audio.wave) == 2 * RATE


@pytest.mark.parametrize("size", [0, 2**32 - 1, 2**31 - 4096, 100_000], ids=["0", "2^32", "2^31", "stale"])
@pytest.mark.parametrize("chunk", [b"", b"LIST\x04\x00\x00\x00INFO"])
def test_wav_files_whose_size_was_never_written(tmp_path, size, chunk):
    source = music()
    (tmp_path / "x.wav").write_bytes(wav(pcm(source), size) + chunk)
    wave = read(tmp_path / "x.wav")
    assert len(wave) - len(source) <= len(chunk)
    assert_equal(wave[: len(source)], source)


def test_chunks_after_the_samples_are_no_music(tmp_path):
    source = music(channels=1)[:-1]
    data = pcm(source)
    for chunks in (b"LIST" + struct.pack("<I", 9000) + bytes(9000), b"TAG" + bytes(125), bytes(2)):
        (tmp_path / "x.wav").write_bytes(wav(data, len(data), channels=1) + chunks)
        assert_equal(read(tmp_path / "x.wav"), source)


def test_a_wrong_byte_rate_has_no_consequence(tmp_path):
    source = music()
    data = bytearray(wav(pcm(source), 4 * len(source)))
    data[28:32] = (7).to_bytes(4, "little")
    (tmp_path / "x.wav").write_bytes(data)
    assert_equal(read(tmp_path / "x.wav"), source)


def test_a_cut_wav_is_an_error_in_length(tmp_path):
    data = pcm(music())
    (tmp_path / "x.wav").write_bytes(wav(data[: len(data) // 2], len(data)))
    audio = read_audio(tmp_path / "x.wav", RATE, 60)
    assert audio.error == "its header claims 4.0 s and it contains 2.0 s"
    assert len(audio.wave) == 2 * RATE
    (tmp_path / "y.wav").write_bytes(wav(data, len(data) + 44))  # a common mistake
    assert read_audio(tmp_path / "y.wav", RATE, 60).error is None


def test_a_wav_beyond_4_gib_has_its_whole_length(tmp_path):
    with open(tmp_path / "x.wav", "wb") as file:
        file.write(wav(pcm(music(1)), 2**32 - 1))
        file.truncate(5 << 30)  # a hole takes no space
    assert header_duration_s(tmp_path / "x.wav") == pytest.approx((5 << 30) / (4 * RATE), abs=1)
    wave = read_audio(tmp_path / "x.wav", RATE, 10).wave
    assert_equal(wave[:RATE], music(1))
    assert len(wave) == 10 * RATE


@pytest.mark.parametrize("total", [0, RATE, round(SECONDS * RATE) - 20_000])
def test_flac_with_too_few_samples_in_its_header(tmp_path, total):
    source = music()
    flac = write_sound(tmp_path / "made.flac", source)
    (tmp_path / "x.flac").write_bytes(flac_of_total(flac, total))
    audio = read_audio(tmp_path / "x.flac", RATE, 60)
    assert audio.error is None
    assert_equal(audio.wave, source)


def test_flac_with_too_many_samples_in_its_header_is_an_error(tmp_path):
    flac = write_sound(tmp_path / "made.flac", music())
    (tmp_path / "x.flac").write_bytes(flac_of_total(flac, 9 * RATE))
    audio = read_audio(tmp_path / "x.flac", RATE, 60)
    assert audio.error == "its header claims 9.0 s and it contains 4.0 s"
    assert len(audio.wave) == 4 * RATE


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("m4a.mp3", "aac", "ipod"),
        ("adts.mp3", "aac", "adts"),
        ("wma.mp3", "wmav2", "asf"),
        ("m4a.wav", "aac", "ipod"),
        ("ac3.wav", "ac3", "wav"),
        ("wma.wav", "wmav2", "wav"),
        ("aac.wav", "aac", "wav"),
        ("mp2.wav", "mp2", "wav"),
        ("mp3.ogg", "libmp3lame", "mp3"),
        ("12:30 song.m4a", "aac", "ipod"),
        ("x", "aac", "adts"),
    ],
)
def test_lossy_files_of_any_name(tmp_path, name, codec, container):
    source = music()
    encode(tmp_path / name, source, codec, container)
    assert_similar(read_audio(tmp_path / name, RATE, 60).wave, source)


@pytest.mark.parametrize(("codec", "rate"), [("g722", 16_000), ("g726", 8_000)])
def test_wav_files_of_telephony(tmp_path, codec, rate):
    source = music(rate=rate, channels=1)
    encode(tmp_path / "x.wav", source, codec, "wav", rate)
    assert_similar(read_audio(tmp_path / "x.wav", rate, 60).wave, source)


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [("x.ogg", "flac", "ogg"), ("x.mka", "flac", "matroska"), ("x.wv", "wavpack", "wv"), ("x.mp3", "flac", "flac")],
)
def test_lossless_files_of_any_name(tmp_path, name, codec, container):
    source = music()
    encode(tmp_path / name, source, codec, container)
    assert_equal(read_audio(tmp_path / name, RATE, 60).wave, source)


def test_webm_named_opus(tmp_path):
    source = music(rate=48_000)
    encode(tmp_path / "x.opus", source, "libopus", "webm", 48_000)
    assert_similar(read_audio(tmp_path / "x.opus", 48_000, 60).wave, source)


def test_the_first_of_several_audio_streams(tmp_path):
    sources = [music(seed=seed) for seed in (3, 4)]
    sources[0] = sources[0][: 3 * RATE]  # a container is as long as its longest stream, which is no promise
    with av.open(str(tmp_path / "x.mka"), "w", format="matroska") as file:
        streams = [file.add_stream("pcm_s16le", rate=RATE, layout="stereo") for _ in sources]
        for stream, source in zip(streams, sources, strict=True):
            frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm(source), np.int16)[None], "s16", "stereo")
            frame.sample_rate, frame.pts = RATE, 0
            file.mux(stream.encode(frame))
    audio = read_audio(tmp_path / "x.mka", RATE, 60)
    assert audio.error is None
    assert_equal(audio.wave, sources[0])


@pytest.mark.parametrize(
    ("name", "rate", "min_correlation"),
    [("speex.ogg", 16_000, 0.85), ("video.ogg", 22_050, 0.99)],  # Speex's own decoder gives 0.96: it is for speech
)
def test_ogg_files_that_libsndfile_refuses(name, rate, min_correlation):
    audio = read_audio(FILES / name, rate, 60)
    assert audio.error is None
    assert_similar(audio.wave, music(1.5, rate, channels=1), min_correlation)


def test_a_sidecar_of_macos_is_not_read(tmp_path):
    mp3 = without_xing(write_sound(tmp_path / "made.mp3", music(), bitrate_mode="CONSTANT"))
    (tmp_path / "x.mp3").write_bytes(mp3)
    expected = read(tmp_path / "x.mp3")
    (tmp_path / "._x.mp3").write_bytes(bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(4000))
    assert_equal(read(tmp_path / "x.mp3"), expected)


@pytest.mark.parametrize("num_samples", [1, 3, round(0.003 * RATE), RATE // 2 - 1])
@pytest.mark.parametrize("suffix", [".ogg", ".wav"])
def test_less_than_the_least_length_is_an_error(tmp_path, suffix, num_samples):
    write_sound(tmp_path / f"x{suffix}", music()[:num_samples])
    audio = read_audio(tmp_path / f"x{suffix}", 22_050, 60, 0.5)
    assert audio.error == f"only {num_samples / RATE:.3f} s of audio"
    assert len(audio.wave) == 0
    assert read_audio(tmp_path / f"x{suffix}", RATE, 60).error is None


def test_the_least_length_itself_is_enough(tmp_path):
    write_sound(tmp_path / "x.wav", music()[: RATE // 2])
    assert read_audio(tmp_path / "x.wav", 22_050, 60, 0.5).error is None
    assert read_audio(tmp_path / "x.wav", 22_050, 0.3, 0.5).error is None  # a track is shorter still
