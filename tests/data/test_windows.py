import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melgpu.data import windows
from melgpu.recipe import load_recipe
from melgpu.recipe_schema import AudioSpec
from tests.helpers.runs import ZALO_COUNTS

ZALO = load_recipe([])


def test_window_counts_of_the_competition():
    assert windows.num_windows(120, 20, 10) == 11
    assert windows.num_windows(120, 20, 5) == 21
    labels = [label for label, count in ZALO_COUNTS.items() for _ in range(count)]
    index = windows.training_windows(np.arange(len(labels)), labels, ZALO.audio, ZALO.windows)
    assert len(index) == 58_648


def test_prediction_hops_of_public_and_private_tracks():
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
def test_windows_in_samples_fit_the_track_in_samples(rate, window, hop, more):
    """Also for lengths and hops that are not whole samples."""
    window_s, hop_s = window / 16, hop / 16
    audio = AudioSpec(sample_rate=rate, track_s=window_s + more * hop_s / 3, min_s=0.0)
    spec = ZALO.windows.model_copy(update={"window_s": window_s, "predict_hop_s": hop_s, "public_hop_s": hop_s})
    starts = windows.prediction_windows(np.array([5]), np.array([False]), audio, spec).starts
    assert starts[0] == 0
    assert starts[-1] + windows.to_samples(window_s, rate) <= windows.to_samples(audio.track_s, rate)
    assert (abs(np.diff(starts) - hop_s * rate) <= 1 + 0.5 * len(starts)).all()


indices = st.builds(
    lambda counts: windows.regular_windows(np.arange(len(counts)) * 3, np.array(counts), np.full(len(counts), 100)),
    st.lists(st.integers(1, 5), min_size=1, max_size=40),
)


@given(indices, st.integers(1, 50), st.integers(0, 9), st.integers(0, 9))
def test_an_epoch_is_a_permutation_within_a_shuffle_buffer(index, shuffle_tracks, seed, epoch):
    shuffled = windows.shuffle(index, shuffle_tracks, seed, epoch)
    repeated = windows.shuffle(index, shuffle_tracks, seed, epoch)
    assert (shuffled.tracks == repeated.tracks).all()
    assert (shuffled.starts == repeated.starts).all()
    pairs = list(zip(shuffled.tracks, shuffled.starts, strict=True))
    assert sorted(pairs) == sorted(zip(index.tracks, index.starts, strict=True))
    open_tracks = 0
    for position in range(len(shuffled)):  # tracks with windows on both sides of a position
        before, after = set(shuffled.tracks[: position + 1]), set(shuffled.tracks[position + 1 :])
        open_tracks = max(open_tracks, len(before & after))
    assert open_tracks <= shuffle_tracks


def test_epochs_and_seeds_differ():
    index = windows.regular_windows(np.arange(20), np.full(20, 3), np.full(20, 10))
    epochs = [windows.shuffle(index, 8, seed, epoch).tracks.tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(tracks) for tracks in epochs}) == 4


def test_drop_last_gives_full_batches_unless_there_is_none():
    index = windows.regular_windows(np.arange(10), np.ones(10, int), np.ones(10, int))
    assert len(windows.drop_last(index, 4)) == 8
    assert len(windows.drop_last(index, 5)) == 10
    assert len(windows.drop_last(index, 16)) == 10


@given(st.lists(st.integers(0, 30), max_size=50))
def test_unique_inverse_and_first_occurrence_equal_np_unique(tracks):
    rows, inverse = windows.unique_inverse(np.array(tracks, np.int32))
    expected_rows, expected_first, expected_inverse = np.unique(
        np.array(tracks, np.int32), return_index=True, return_inverse=True
    )
    assert (rows == expected_rows).all()
    assert (inverse == expected_inverse).all()
    assert (windows.first_occurrence(inverse, len(rows)) == expected_first).all()


@given(indices, st.integers(0, 9), st.integers(1, 5))
def test_shards_split_the_windows_and_never_a_track(index, epoch, world_size):
    for unsharded in (index, windows.shuffle(index, 8, 0, epoch)):
        shards = [windows.shard(unsharded, rank, world_size) for rank in range(world_size)]
        pairs = [(t, s) for shard in shards for t, s in zip(shard.tracks, shard.starts, strict=True)]
        assert sorted(pairs) == sorted(zip(unsharded.tracks, unsharded.starts, strict=True))
        shard_tracks = [set(shard.tracks.tolist()) for shard in shards]
        assert sum(map(len, shard_tracks)) == len(set(unsharded.tracks.tolist()))
        assert max(map(len, shard_tracks)) - min(map(len, shard_tracks)) <= 1


@given(indices, st.integers(1, 9), st.integers(1, 4))
def test_shards_have_equal_numbers_of_full_batches(index, batch_size, world_size):
    if len(set(index.tracks.tolist())) < world_size:
        with pytest.raises(ValueError, match="not every process has one"):
            windows.drop_last(index, batch_size, 0, world_size)
        return
    truncated = [windows.drop_last(index, batch_size, rank, world_size) for rank in range(world_size)]
    assert len({len(part) for part in truncated}) == 1
    assert len(truncated[0]) < batch_size or len(truncated[0]) % batch_size == 0
    shards = [windows.shard(index, rank, world_size) for rank in range(world_size)]
    assert all((part.starts == shard[: len(part)].starts).all() for part, shard in zip(truncated, shards, strict=True))
    assert min(map(len, shards)) - len(truncated[0]) < batch_size


def test_new_tracks_are_needed_at_an_even_rate():
    index = windows.regular_windows(np.arange(1000), np.full(1000, 11), np.full(1000, 10))
    shuffled = windows.shuffle(index, 64, 0, 0)
    seen, num_new = set(), []
    for start in range(0, len(shuffled), 32):
        batch_tracks = set(shuffled.tracks[start : start + 32].tolist())
        num_new.append(len(batch_tracks - seen))
        seen |= batch_tracks
    assert max(num_new[10:]) <= 10  # without sliding: 25 new tracks at once, every 22 batches
    assert np.mean(num_new[10:-10]) == pytest.approx(32 / 11, rel=0.1)


def test_without_shuffle_tracks_the_whole_epoch_is_shuffled():
    index = windows.regular_windows(np.arange(500), np.full(500, 4), np.full(500, 10))
    shuffled = windows.shuffle(index, None, 0, 0)
    assert len(set(shuffled.tracks[:500].tolist())) > 300
    assert sorted(shuffled.tracks.tolist()) == sorted(index.tracks.tolist())


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(0, 99))
def test_balanced_windows_are_as_many_and_equally_many_in_each_class(classes, seed):
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
    next_epoch = windows.class_balanced(index, classes, 0, 1)
    assert set(drawn.tracks[drawn.tracks < 90]) != set(next_epoch.tracks[next_epoch.tracks < 90])
