import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melgpu.prediction import timeline_plot


def spans(count: int, window_s: float = 20.0, hop_s: float = 10.0) -> np.ndarray:
    starts = np.arange(count) * hop_s
    return np.stack([starts, starts + window_s], axis=1)


def random_probs(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(shape[-1]), shape[:-1])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.mp3", "b/c.1.flac"], ["a", "c.1"]),
        (["a.mp3", "b/a.flac", "c.ogg"], ["a.mp3", "a.flac", "c"]),
        (["/m/one/a.mp3", "/m/two/a.mp3"], ["one_a.mp3", "two_a.mp3"]),
        (["./a.mp3", "a.mp3"], ["1-a.mp3", "2-a.mp3"]),
        (["https://x.org/get?id=1", "https://x.org/get?id=2"], ["1-https:_x.org_get", "2-https:_x.org_get"]),
    ],
)
def test_names_are_stems_or_longer(paths, names):
    assert timeline_plot.distinct_names(paths) == names


@given(st.lists(st.text("ab1-_./é", min_size=1).filter(lambda path: path.strip("./")), unique=True))
def test_names_are_distinct_and_fit_into_one_folder(paths):
    names = timeline_plot.distinct_names(paths)
    assert len(set(names)) == len(paths)
    assert not any("/" in name or len(name.encode()) > 200 for name in names)


def test_columns_are_the_centres_of_windows():
    window_spans = np.array([[0.0, 20.0], [10.0, 30.0], [13.0, 33.0]])
    probs = random_probs(3, 4)
    edges, column_probs = timeline_plot.columns(window_spans, probs)
    assert edges.tolist() == [0, 15, 21.5, 33]
    assert column_probs is probs


def test_more_windows_than_pixels_are_averaged():
    probs = random_probs(9_000, 3)
    edges, means = timeline_plot.columns(spans(9_000), probs)
    assert means.shape == (timeline_plot.MAX_COLUMNS, 3)
    assert (edges[0], edges[-1]) == (0, 90_010)
    assert (np.diff(edges) > 0).all()
    np.testing.assert_allclose(means[7], probs[42:48].mean(0))
    np.testing.assert_allclose(means.sum(1), 1)


@pytest.mark.parametrize(("windows", "classes"), [(1, 2), (4, 3), (5_000, 20)])
def test_a_csv_and_a_plot_are_written_with_any_names(tmp_path, windows, classes):
    names = [f"nhạc $ố_{c}, 日本 " + "x" * 2 * c for c in range(classes)]
    probs = random_probs(windows, classes)
    timeline_plot.save(tmp_path / "a.b", "half $ of\n音楽^{.mp3" + "y" * 300, spans(windows), probs, names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.b.csv", "a.b.png"]
    assert (tmp_path / "a.b.png").read_bytes()[:4] == b"\x89PNG"
    with open(tmp_path / "a.b.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["start_s", "end_s", *names]
    table = np.array(rows, float)
    np.testing.assert_allclose(table[:, :2], spans(windows))
    np.testing.assert_allclose(table[:, 2:], probs, atol=1e-6)
