from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_audio

from melgpu import windows, worker
from melgpu.decode import DecodeError, decode
from melgpu.recipe import AudioSpec, StreamSpec
from melgpu.stream import Stream

AUDIO = AudioSpec(sample_rate=8_000, track_s=6.0)
WINDOW = 16_000


def spec(workers=0, bank="off", ahead=3) -> StreamSpec:
    return StreamSpec(workers=workers, decode_ahead=ahead, predict_batch_size=4, bank=bank)


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("audio")
    suffixes = (".wav", ".flac", ".ogg", ".mp3")
    return [str(write_audio(folder / f"{i}{suffixes[i % 4]}", 1.5 + i, 22_050, 1 + i % 2, seed=i)) for i in range(9)]


@pytest.fixture(scope="module")
def order() -> windows.Order:
    return windows.shuffled(windows.in_order(np.arange(9), np.full(9, 3), np.full(9, 16_000)), 4, seed=1, epoch=2)


def collect(paths, order, settings, folder=Path("unused"), batch_size=5) -> list:
    with Stream(paths, AUDIO, settings, torch.device("cpu"), folder) as stream:
        return list(stream.batches(order, WINDOW, batch_size))


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.waves, b.waves) and torch.equal(a.tracks, b.tracks) and torch.equal(a.starts, b.starts)
        for a, b in zip(one, other, strict=True)
    )


def test_windows_are_cut_from_the_conformed_track(paths, order):
    batches = collect(paths, order, spec())
    assert [len(batch.tracks) for batch in batches] == [5, 5, 5, 5, 5, 2]
    assert torch.cat([b.tracks for b in batches]).tolist() == order.tracks.tolist()
    for batch in batches:
        for wave, track, start in zip(batch.waves, batch.tracks, batch.starts, strict=True):
            whole = windows.conform(decode(Path(paths[track]), 8_000, 6.0), 48_000)
            np.testing.assert_array_equal(wave, whole[start : start + WINDOW])


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_batches_do_not_depend_on_workers(paths, order, workers):
    assert same(collect(paths, order, spec()), collect(paths, order, spec(workers)))


def test_batches_do_not_depend_on_the_bank(paths, order, tmp_path):
    cold = collect(paths, order, spec())
    for workers in (0, 2, 0):  # filled, then read
        assert same(cold, collect(paths, order, spec(workers, "disk"), tmp_path))
    assert len(list(tmp_path.iterdir())) == 9


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    seen = []

    def spy(path, *rest):
        seen.append(str(path))
        return original(path, *rest)

    original = worker.decode_and_keep
    monkeypatch.setattr(worker, "decode_and_keep", spy)
    return seen


def test_each_track_is_decoded_once_and_ahead_only_as_far_as_told(paths, order, decoded):
    with Stream(paths, AUDIO, spec(ahead=2), torch.device("cpu"), Path("unused")) as stream:
        batches = stream.batches(order, WINDOW, 2)
        next(batches)
        assert len(decoded) <= 2 + 3
        assert len(list(batches)) == 13
    assert sorted(decoded) == sorted(paths)


def test_a_resumed_order_decodes_nothing_of_what_it_skips(paths, order, decoded):
    whole = collect(paths, order, spec())
    decoded.clear()
    rest = collect(paths, order[20:], spec())
    assert same(whole[4:], rest)
    assert set(decoded) == {paths[track] for track in order.tracks[20:]}


def test_a_broken_file_is_named(paths, order, tmp_path):
    (tmp_path / "broken.mp3").write_text("no music")
    mixed = [*paths[:-1], str(tmp_path / "broken.mp3")]
    for workers in (0, 2):
        with pytest.raises(DecodeError, match=r"broken\.mp3: not readable as audio"):
            collect(mixed, order, spec(workers))


def test_an_abandoned_stream_ends(paths, order):
    with Stream(paths, AUDIO, spec(2), torch.device("cpu"), Path("unused")) as stream:
        next(stream.batches(order, WINDOW, 2))
    assert stream._pool is None
