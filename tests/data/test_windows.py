import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melgpu.data import windows
from melgpu.recipe import AudioSpec, load_recipe
from tests.helpers.runs import ZALO_COUNTS

ZALO = load_recipe([])


def test_counts_of_the_competition():
    assert windows.num_windows(120, 20, 10) == 11
    assert windows.num_windows(120, 20, 5) == 21
    labels = [label for label, count in ZALO_COUNTS.items() for _ in range(count)]
    index = windows.training_windows(np.arange(len(labels)), labels, ZALO.audio, ZALO.windows)
    assert len(index) == 58_648


def test_test_protocols():
    index = windows.prediction_windows(np.array([7, 9]), np.array([True, False]), ZALO.audio, ZALO.windows)
    assert np.bincount(index.tracks)[[7, 9]].tolist() == [21, 11]
    assert index.starts[:3].tolist() == [0, 110_250, 220_500]
    assert index.starts[index.tracks == 9].max() == 2_205_000
    assert len(index[:5]) == 5


@given(st.floats(1, 60), st.floats(0.1, 30), st.floats(0, 100))
def test_windows_fit_the_track(window_s, hop_s, more_s):
    track_s = window_s + more_s
    count = windows.num_windows(track_s, window_s, hop_s)
    assert count >= 1
    assert (count - 1) * hop_s + window_s <= track_s + 1e-4
    assert count * hop_s + window_s > track_s - 1e-4


@given(st.sampled_from([8000, 11_025, 22_050]), st.integers(1, 400), st.integers(1, 160), st.integers(1, 80))
def test_samples_of_windows_fit_the_samples_of_the_track(rate, window, hop, more):
    """Of lengths and hops that are no whole samples, too."""
    window_s, hop_s = window / 16, hop / 16
    audio = AudioSpec(sample_rate=rate, track_s=window_s + more * hop_s / 3)
    spec = ZALO.windows.model_copy(update={"window_s": window_s, "predict_hop_s": hop_s, "public_hop_s": hop_s})
    starts = windows.prediction_windows(np.array([5]), np.array([False]), audio, spec).starts
    assert starts[0] == 0
    assert starts[-1] + windows.to_samples(window_s, rate) <= windows.to_samples(audio.track_s, rate)
    assert (abs(np.diff(starts) - hop_s * rate) <= 1 + 0.5 * len(starts)).all()


orders = st.builds(
    lambda counts: windows.regular_windows(np.arange(len(counts)) * 3, np.array(counts), np.full(len(counts), 100)),
    st.lists(st.integers(1, 5), min_size=1, max_size=40),
)


@given(orders, st.integers(1, 50), st.integers(0, 9), st.integers(0, 9))
def test_an_epoch_is_a_permutation_in_chunks_of_tracks(index, shuffle_tracks, seed, epoch):
    made = windows.shuffle(index, shuffle_tracks, seed, epoch)
    again = windows.shuffle(index, shuffle_tracks, seed, epoch)
    assert (made.tracks == again.tracks).all()
    assert (made.starts == again.starts).all()
    pairs = list(zip(made.tracks, made.starts, strict=True))
    assert sorted(pairs) == sorted(zip(index.tracks, index.starts, strict=True))
    open_tracks = 0
    for place in range(len(made)):  # tracks begun and not yet ended, at any place
        begun, rest = set(made.tracks[: place + 1]), set(made.tracks[place + 1 :])
        open_tracks = max(open_tracks, len(begun & rest))
    assert open_tracks <= shuffle_tracks


def test_epochs_and_seeds_differ():
    index = windows.regular_windows(np.arange(20), np.full(20, 3), np.full(20, 10))
    made = [windows.shuffle(index, 8, seed, epoch).tracks.tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(tracks) for tracks in made}) == 4


def test_only_whole_batches_unless_there_is_none():
    index = windows.regular_windows(np.arange(10), np.ones(10, int), np.ones(10, int))
    assert len(windows.drop_last(index, 4)) == 8
    assert len(windows.drop_last(index, 5)) == 10
    assert len(windows.drop_last(index, 16)) == 10


@given(st.lists(st.integers(0, 30), max_size=50))
def test_numbers_and_first_uses_are_those_of_unique(tracks):
    rows, numbers = windows.unique_inverse(np.array(tracks, np.int32))
    expected, first, inverse = np.unique(np.array(tracks, np.int32), return_index=True, return_inverse=True)
    assert (rows == expected).all()
    assert (numbers == inverse).all()
    assert (windows.first_occurrence(numbers, len(rows)) == first).all()


@given(orders, st.integers(0, 9), st.integers(1, 5))
def test_ranks_share_the_windows_and_never_a_track(index, epoch, ranks):
    for made in (index, windows.shuffle(index, 8, 0, epoch)):
        shares = [windows.shard(made, rank, ranks) for rank in range(ranks)]
        pairs = [(t, s) for part in shares for t, s in zip(part.tracks, part.starts, strict=True)]
        assert sorted(pairs) == sorted(zip(made.tracks, made.starts, strict=True))
        held = [set(part.tracks.tolist()) for part in shares]
        assert sum(map(len, held)) == len(set(made.tracks.tolist()))
        assert max(map(len, held)) - min(map(len, held)) <= 1


@given(orders, st.integers(1, 9), st.integers(1, 4))
def test_ranks_take_equal_numbers_of_whole_batches(index, batch_size, ranks):
    if len(set(index.tracks.tolist())) < ranks:
        with pytest.raises(ValueError, match="not every process has one"):
            windows.drop_last(index, batch_size, 0, ranks)
        return
    parts = [windows.drop_last(index, batch_size, rank, ranks) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    assert len(parts[0]) < batch_size or len(parts[0]) % batch_size == 0
    shares = [windows.shard(index, rank, ranks) for rank in range(ranks)]
    assert all((part.starts == own[: len(part)].starts).all() for part, own in zip(parts, shares, strict=True))
    assert min(map(len, shares)) - len(parts[0]) < batch_size


def test_new_tracks_are_wanted_at_an_even_pace():
    index = windows.regular_windows(np.arange(1000), np.full(1000, 11), np.full(1000, 10))
    made = windows.shuffle(index, 64, 0, 0)
    seen, wanted = set(), []
    for start in range(0, len(made), 32):
        own = set(made.tracks[start : start + 32].tolist())
        wanted.append(len(own - seen))
        seen |= own
    assert max(wanted[10:]) <= 10  # chunks that do not slide want 25 at once, every 22 batches
    assert np.mean(wanted[10:-10]) == pytest.approx(32 / 11, rel=0.1)


def test_without_a_number_the_whole_epoch_is_one_shuffle():
    index = windows.regular_windows(np.arange(500), np.full(500, 4), np.full(500, 10))
    made = windows.shuffle(index, None, 0, 0)
    assert len(set(made.tracks[:500].tolist())) > 300
    assert sorted(made.tracks.tolist()) == sorted(index.tracks.tolist())


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(0, 99))
def test_balanced_windows_are_as_many_and_equal_in_all_classes(classes, seed):
    classes = np.array(classes)
    index = windows.regular_windows(np.arange(len(classes)), np.ones(len(classes), int), np.ones(len(classes), int))
    drawn = windows.class_balanced(index, classes, seed, 1)
    assert len(drawn) == len(index)
    counts = np.bincount(classes[drawn.tracks], minlength=5)[np.unique(classes)]
    assert counts.max() - counts.min() <= 2
    assert windows.class_balanced(index, classes, seed, 1).tracks.tolist() == drawn.tracks.tolist()


def test_balanced_windows_use_all_of_a_rare_class():
    classes = np.array([0] * 90 + [1] * 10)
    index = windows.regular_windows(np.arange(100), np.ones(100, int), np.ones(100, int))
    drawn = windows.class_balanced(index, classes, 0, 0)
    assert np.bincount(drawn.tracks, minlength=100)[90:].tolist() == [5] * 10
    others = windows.class_balanced(index, classes, 0, 1)
    assert set(drawn.tracks[drawn.tracks < 90]) != set(others.tracks[others.tracks < 90])
