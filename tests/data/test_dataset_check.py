import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from melgpu.audio import duplicates, worker
from melgpu.audio.duplicates import Duplicate
from melgpu.data import dataset_check
from melgpu.data.manifest import Manifest, Split
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
    found = duplicates.find({path: summary.checked for path, summary in zip(files, summaries, strict=True)})
    assert [(pair.path, pair.other) for pair in found] == [(files[0], files[4]), (files[1], files[3])]
    assert found[0].differing_bits is None
    assert 0 < found[1].differing_bits < 0.3


def a_manifest() -> Manifest:
    splits = (Split.TRAIN, Split.TRAIN, Split.TRAIN, Split.PUBLIC, Split.PRIVATE)
    names = tuple("abcde")
    return Manifest(names, tuple(f"/{name}.mp3" for name in names), names, splits, np.array([0, 0, 1, -1, -1]))


def test_duplicates_in_two_folds_or_sets_come_first():
    tracks = a_manifest()
    in_fold = Duplicate("/a.mp3", "/b.mp3", None)
    across = [Duplicate("/a.mp3", "/c.mp3", 0.031), Duplicate("/d.mp3", "/e.mp3", None)]
    assert dataset_check.leaks([in_fold, *across], tracks) == across
    assert dataset_check.describe_duplicates([in_fold, *across], tracks) == [
        "/a.mp3 (fold 0) ~ /c.mp3 (fold 1): 3% of the bits differ",
        "/d.mp3 (public test) = /e.mp3 (private test)",
        "/a.mp3 (fold 0) = /b.mp3 (fold 0)",
    ]
    note = dataset_check.duplicates_note([in_fold, *across], tracks, Path("run/duplicates.csv"))
    assert note.startswith(
        "3 pairs of files with the same recording, 2 of them in two folds or sets, which makes scores"
    )
    assert note.endswith("/a.mp3 (fold 0) = /b.mp3 (fold 0): run/duplicates.csv")
    harmless = dataset_check.duplicates_note([in_fold], tracks, Path("x"))
    assert harmless.startswith("1 pair of files with the same recording, all in one fold or set: /a.mp3")
    assert "; ...: x" in dataset_check.duplicates_note([in_fold, *across, across[0]], tracks, Path("x"))


def test_the_errors_are_those_that_training_finds(tmp_path):
    names = [name for name in malformed_files.write_malformed_files(tmp_path) if name != "locked.ogg"]
    paths = [str(tmp_path / name) for name in names]
    summaries = dataset_check.inspect_files(paths, AUDIO, loader_spec(0))
    num_samples = round(AUDIO.track_s * AUDIO.sample_rate)
    for path, summary in zip(paths, summaries, strict=True):
        audio_error = worker.check_file(path, AUDIO.sample_rate, num_samples, AUDIO.min_s).error
        assert summary.error == (audio_error.reason if audio_error else None), path


def test_a_cut_file_and_a_very_short_one_have_an_error(tmp_path):
    cut = write_audio(tmp_path / "cut.mp3", 30)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 5])
    short = write_audio(tmp_path / "short.mp3", 0.3)
    summaries = dataset_check.inspect_files([str(cut), str(short)], AUDIO, loader_spec(0))
    expected = ["its header claims 30.0 s and it contains 5.9 s", "only 0.300 s of audio"]
    assert [summary.error for summary in summaries] == expected
