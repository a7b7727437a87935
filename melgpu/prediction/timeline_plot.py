"""The timeline of a file, its class probabilities over time: a CSV and a plot.

In the plot time runs to the right. The strip on top shows the predicted class; below it every class has a row, the
most frequent one on top, in which the height of the area is its probability. Rows distinguish classes, colours only
link them to the strip.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from melgpu import files
from melgpu.audio.remote import is_url

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#332288", "#cc6677", "#117733", "#ddcc77", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")  # Tol's
DARK_COLOURS = ("#332288", "#117733", "#882255", "#aa4499")  # a black label would not be legible on them
GREY = "#666666"
RARE_COLOURS = ("#999999", "#c4c4c4", "#777777")  # of the least frequent classes, where there are more than colours
MAX_COLUMNS = 1500  # about the number of pixels; more windows are averaged
MAX_NAME_BYTES = 180  # file systems allow 255, with the suffixes
# Steps between ticks, round in s, min and h: 1 to 30 s, 1 to 30 min, 1 to 24 h.
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400)
STRIP_CHARS = 180  # fit side by side into the strip
WIDTH_IN = 14.0  # of the plot
STRIP_IN = 0.42  # height of the strip
TALL_ROW_IN = 0.5  # height of a row for few classes, up to MAX_TALL_ROWS
LOW_ROW_IN = 0.3  # for more
MAX_TALL_ROWS = 8


def distinct_names(paths: Sequence[str]) -> list[str]:
    """A name without suffix for each path: its stem, or more of the path where others have the same, or a number."""
    candidates = [_candidate_names(path) for path in paths]
    # A set: a file without suffix has the same candidate twice, its stem and its name.
    counts = Counter(name for path_names in candidates for name in set(path_names))
    names = [_unique_name(path_names, counts) for path_names in candidates]
    if len(set(names)) == len(names):
        return names
    return [f"{i}-{name}" for i, name in enumerate(names, start=1)]


def _unique_name(path_names: list[str], counts: Counter) -> str:
    """The first candidate that no other path has; the last one where there is none."""
    return next((name for name in path_names if counts[name] == 1), path_names[-1])


def _candidate_names(path: str) -> list[str]:
    """From short to long: the stem, the file's name, then one more folder in each."""
    path = path.split("?")[0] if is_url(path) else path
    parts = PurePosixPath(path).parts
    stem = PurePosixPath(parts[-1]).stem
    names = [stem, *("_".join(parts[-n:]) for n in range(1, len(parts) + 1))]
    # "/" is a part of its own in an absolute path. A character that the limit cuts in two is dropped.
    return [name.replace("/", "").encode()[:MAX_NAME_BYTES].decode(errors="ignore") for name in names]


def save(out: Path, title: str, spans_s: np.ndarray, probs: np.ndarray, class_names: Sequence[str]) -> None:
    """Write OUT.csv and OUT.png of W windows: their starts and ends in s, shape (W, 2), and probabilities, (W, C)."""
    _write_csv(out.with_name(f"{out.name}.csv"), spans_s, probs, class_names)
    _plot(out.with_name(f"{out.name}.png"), title, spans_s, probs, class_names)


def _write_csv(path: Path, spans_s: np.ndarray, probs: np.ndarray, class_names: Sequence[str]) -> None:
    rows = (_csv_row(span_s, window_probs) for span_s, window_probs in zip(spans_s, probs, strict=True))
    files.write_csv(path, ["start_s", "end_s", *class_names], rows)


def _csv_row(span_s: np.ndarray, window_probs: np.ndarray) -> list[str]:
    times = [f"{time_s:.3f}" for time_s in span_s]
    return times + [f"{p:.6f}" for p in window_probs]


def columns(spans_s: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges in s, shape (N + 1,), and probabilities, shape (N, C), of the plot's columns, which do not overlap.

    A window's column is the time around its centre; the first and the last extend to the ends of the file.
    """
    centres = spans_s.mean(axis=1)
    edges = np.concatenate([[0.0], (centres[1:] + centres[:-1]) / 2, spans_s[-1:, 1]])
    if len(probs) > MAX_COLUMNS:
        begins = np.linspace(0, len(probs), MAX_COLUMNS + 1).astype(int)  # equally many windows each, to within one
        probs = np.add.reduceat(probs, begins[:-1]) / np.diff(begins)[:, None]
        edges = edges[begins]
    return edges, probs


def _plot(path: Path, title: str, spans_s: np.ndarray, probs: np.ndarray, class_names: Sequence[str]) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    edges, probs = columns(spans_s, probs)
    time_fractions = np.bincount(probs.argmax(1), np.diff(edges), probs.shape[1]) / edges[-1]
    order = np.lexsort([-probs.mean(0), -time_fractions])  # by fraction of the time, then by probability
    probs = probs[:, order]
    names = [_shortened(class_names[c], 28) for c in order]
    colours = [*COLOURS, *RARE_COLOURS * len(names)][: len(names)]
    row_in = TALL_ROW_IN if len(names) <= MAX_TALL_ROWS else LOW_ROW_IN
    rows_in = len(names) * row_in
    # Without parse_math a "$" in a name is a character like others.
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the font lacks characters of the title
        figure = Figure((WIDTH_IN, rows_in + STRIP_IN + 1.2), layout="constrained")
        strip, rows = figure.subplots(2, 1, sharex=True, height_ratios=[STRIP_IN, rows_in])
        strip.set_title(_shortened(title, 90), loc="left", fontsize=12, fontweight="bold")
        strip.set_title("a full row is a probability of 1", loc="right", fontsize=9, color=GREY)
        _plot_strip(strip, edges, probs.argmax(1), names, colours)
        _plot_rows(rows, edges, probs, names, colours, time_fractions[order])
        _set_time_ticks(rows, edges[-1])
        with files.atomic_write(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120)


def _plot_strip(axes: "Axes", edges: np.ndarray, predicted: np.ndarray, names: list[str], colours: list[str]) -> None:
    """Segments of one predicted class, each with its name where it fits."""
    changes = np.flatnonzero(np.diff(predicted)) + 1
    begins = np.concatenate([[0], changes])
    ends = edges[np.concatenate([changes, [len(predicted)]])]
    for begin, end in zip(begins, ends, strict=True):
        class_index = predicted[begin]
        start = edges[begin]
        axes.axvspan(start, end, color=colours[class_index], linewidth=0)
        if (end - start) / edges[-1] * STRIP_CHARS > len(names[class_index]) + 2:  # with a margin of a character
            text_colour = "white" if colours[class_index] in DARK_COLOURS else "black"
            axes.text((start + end) / 2, 0.5, names[class_index], ha="center", va="center", color=text_colour)
    axes.set(ylim=(0, 1), yticks=[0.5], yticklabels=["predicted"])
    axes.text(1.005, 0.5, "fraction of\nthe time", transform=axes.transAxes, va="center", fontsize=9, color=GREY)
    _hide_frame(axes)


def _plot_rows(
    axes: "Axes", edges: np.ndarray, probs: np.ndarray, names: list[str], colours: list[str], time_fractions: np.ndarray
) -> None:
    bottoms = np.arange(len(names))[::-1]
    for bottom, class_probs, colour in zip(bottoms, probs.T, colours, strict=True):
        # Edges are one more than columns: step="post" needs a last value. 0.9 leaves a gap below the row above.
        tops = bottom + 0.9 * np.append(class_probs, class_probs[-1])
        axes.fill_between(edges, bottom, tops, step="post", color=colour, linewidth=0)
        axes.axhline(bottom, color="#bbbbbb", linewidth=0.6)
    axes.set(ylim=(0, len(names)), yticks=bottoms + 0.4, yticklabels=names)
    right = axes.secondary_yaxis("right")
    right.set_yticks(bottoms + 0.4, [f"{fraction:.0%}" for fraction in time_fractions])
    right.tick_params(length=0)
    right.spines[:].set_visible(False)
    _hide_frame(axes)


def _hide_frame(axes: "Axes") -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _set_time_ticks(axes: "Axes", duration_s: float) -> None:
    """Ticks at a round step, about twelve of them."""
    step = next((step for step in STEPS_S if duration_s / step <= 14), 24 * 3600)
    tick_format, unit = ("h:mm", 60) if duration_s >= 3600 else ("m:ss", 1)
    ticks = np.arange(0, duration_s + 0.01, step)  # one at the very end is included
    labels = [f"{int(s) // (60 * unit)}:{int(s) // unit % 60:02d}" for s in ticks]
    axes.set_xticks(ticks, labels)
    axes.set(xlim=(0, duration_s), xlabel=f"time ({tick_format})")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)


def _shortened(text: str, max_length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"
