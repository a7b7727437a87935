import shutil

import numpy as np
import pytest
import soundfile

from melgpu.audio import worker
from melgpu.data import dataset_check
from melgpu.demo import synthesizer
from melgpu.recipe import load_recipe
from melgpu.recipe_schema import LoaderSpec
from tests.helpers import malformed_files, write_audio

AUDIO = load_recipe(["demo"], []).audio


def loader_spec(workers: int) -> LoaderSpec:
    return load_recipe(["demo"], [f"loader.workers={workers}"]).loader


def write_song(path, label: str, seed: int, rate: int = synthesizer.SAMPLE_RATE):
    waves = (synthesizer.compose(label, np.random.default_rng([seed, attempt])) for attempt in range(100))
    wave = next(wave for wave in waves if len(wave) > 12 * synthesizer.SAMPLE_RATE)
    with soundfile.SoundFile(path, "w", synthesizer.SAMPLE_RATE, 1) as file:
        for block in np.array_split(wave, 200):
            file.write(block)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("files")
    paths = [write_song(folder / f"{i}.flac", label, i) for i, label in enumerate(("waltz", "house", "aria"))]
    paths.append(write_song(folder / "reencoded.ogg", "house", 1))
    paths.append(str(shutil.copy(paths[0], folder / "copy.flac")))
    soundfile.write(folder / "silent.wav", np.zeros((44_100, 2)), 44_100)
    (folder / "text.mp3").write_text("no music")
    return [*paths, str(folder / "silent.wav"), str(folder / "text.mp3"), str(folder / "absent.mp3")]


@pytest.mark.parametrize("workers", [0, 2])
def test_files_are_inspected_in_order(files, workers):
    summaries = list(dataset_check.inspect_files(files, AUDIO, loader_spec(workers)))
    assert [summary.is_silent for summary in summaries] == [False] * 5 + [True] + [False] * 2
    assert [bool(summary.error) for summary in summaries] == [False] * 6 + [True] * 2
    assert (summaries[5].source_rate, summaries[5].channels, summaries[5].length_s) == (44_100, 2, 1.0)
    assert dataset_check.identical_files(files, summaries) == [[0, 4]]
    assert [(i, j) for i, j, _ in dataset_check.near_duplicates(summaries, [[0, 4]])] == [(1, 3)]


def test_equal_heads_and_ends_are_not_equal_content(tmp_path):
    data = bytearray(write_audio(tmp_path / "a.wav", 20, 44_100).read_bytes())
    data[len(data) // 4] ^= 1
    (tmp_path / "b.wav").write_bytes(data)
    paths = [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]
    summaries = list(dataset_check.inspect_files(paths, AUDIO, loader_spec(0)))
    assert summaries[0].content == summaries[1].content
    assert dataset_check.identical_files(paths, summaries) == []


def test_the_errors_are_those_that_training_finds(tmp_path):
    names = [name for name in malformed_files.write_malformed_files(tmp_path) if name != "locked.ogg"]
    paths = [str(tmp_path / name) for name in names]
    summaries = dataset_check.inspect_files(paths, AUDIO, loader_spec(0))
    num_samples = round(AUDIO.track_s * AUDIO.sample_rate)
    for path, summary in zip(paths, summaries, strict=True):
        audio_error = worker.check_file(path, AUDIO.sample_rate, num_samples, AUDIO.min_s)
        assert summary.error == (audio_error.reason if audio_error else None), path


def test_a_cut_file_and_a_very_short_one_have_an_error(tmp_path):
    cut = write_audio(tmp_path / "cut.mp3", 30)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 5])
    short = write_audio(tmp_path / "short.mp3", 0.3)
    summaries = dataset_check.inspect_files([str(cut), str(short)], AUDIO, loader_spec(0))
    expected = ["its header claims 30.0 s and it contains 5.9 s", "only 0.300 s of audio"]
    assert [summary.error for summary in summaries] == expected
