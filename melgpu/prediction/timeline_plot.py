"""What is heard when in a file, for a person: a CSV and a picture.

In the picture time runs to the right. The strip on top names the likeliest class; below it every class has a row, the
most heard one on top, in which the height of the area is its probability. Rows tell classes apart, colours only join
them to the strip.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from melgpu import files
from melgpu.audio.remote import is_url

COLOURS = ("#332288", "#cc6677", "#117733", "#ddcc77", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")  # Tol's
DARK = ("#332288", "#117733", "#882255", "#aa4499")  # under white letters
QUIET = "#666666"
REST = ("#999999", "#c4c4c4", "#777777")  # of the classes heard least, where there are more than colours
MAX_COLUMNS = 1500  # about as many as pixels; more windows are averaged
MAX_NAME_BYTES = 180  # bytes; file systems take 255, with the suffixes
STEPS_S = (1, 2, 5, 10, 15, 30, *(60 * m for m in (1, 2, 5, 10, 15, 30)), *(3600 * h for h in (1, 2, 3, 6, 12, 24)))
LETTERS = 180  # fit side by side into the strip
WIDTH_IN, STRIP_IN, FEW_IN, MANY_IN = 14.0, 0.42, 0.5, 0.3  # heights of the strip, of a row of few classes, of many


def distinct_names(paths: Sequence[str]) -> list[str]:
    """A name without suffix for each path: its stem, or more of the path where others have the same, or a number."""
    options = [_names(path) for path in paths]
    uses = Counter(name for own in options for name in set(own))
    made = [next((name for name in own if uses[name] == 1), own[-1]) for own in options]
    return made if len(set(made)) == len(made) else [f"{number}-{name}" for number, name in enumerate(made, start=1)]


def _names(path: str) -> list[str]:
    parts = PurePosixPath(path.split("?")[0] if is_url(path) else path).parts
    names = [PurePosixPath(parts[-1]).stem, *("_".join(parts[-n:]) for n in range(1, len(parts) + 1))]
    return [name.replace("/", "").encode()[:MAX_NAME_BYTES].decode(errors="ignore") for name in names]


def save(out: Path, title: str, spans_s: np.ndarray, probs: np.ndarray, class_names: Sequence[str]) -> None:
    """Write OUT.csv and OUT.png of W windows: where they begin and end, shape (W, 2), their probabilities, (W, C)."""
    _write(out.with_name(f"{out.name}.csv"), spans_s, probs, class_names)
    _draw(out.with_name(f"{out.name}.png"), title, spans_s, probs, class_names)


def _write(path: Path, spans_s: np.ndarray, probs: np.ndarray, class_names: Sequence[str]) -> None:
    windows = zip(spans_s, probs, strict=True)
    rows = ([*(f"{s:.3f}" for s in span), *(f"{p:.6f}" for p in own)] for span, own in windows)
    files.write_csv(path, ["start_s", "end_s", *class_names], rows)


def columns(spans_s: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges in s, shape (N + 1,), and probabilities, shape (N, C), of what is drawn: windows may overlap, columns not.

    A window stands for the time around its middle; the first and the last reach to the ends of the file.
    """
    middles = spans_s.mean(axis=1)
    edges = np.concatenate([[0.0], (middles[1:] + middles[:-1]) / 2, spans_s[-1:, 1]])
    if len(probs) > MAX_COLUMNS:
        begins = np.linspace(0, len(probs), MAX_COLUMNS + 1).astype(int)
        probs = np.add.reduceat(probs, begins[:-1]) / np.diff(begins)[:, None]
        edges = edges[begins]
    return edges, probs


def _draw(path: Path, title: str, spans_s: np.ndarray, probs: np.ndarray, class_names: Sequence[str]) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    edges, probs = columns(spans_s, probs)
    shares = np.bincount(probs.argmax(1), np.diff(edges), probs.shape[1]) / edges[-1]
    order = np.lexsort([-probs.mean(0), -shares])  # by share of the time, then by probability
    probs, names = probs[:, order], [_shortened(class_names[c], 28) for c in order]
    colours = [*COLOURS, *REST * len(names)][: len(names)]
    rows_in = len(names) * (FEW_IN if len(names) <= 8 else MANY_IN)
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a title in a script that the font lacks
        figure = Figure((WIDTH_IN, rows_in + STRIP_IN + 1.2), layout="constrained")
        strip, rows = figure.subplots(2, 1, sharex=True, height_ratios=[STRIP_IN, rows_in])
        strip.set_title(_shortened(title, 90), loc="left", fontsize=12, fontweight="bold")
        strip.set_title("a full row is a probability of 1", loc="right", fontsize=9, color=QUIET)
        _draw_strip(strip, edges, probs.argmax(1), names, colours)
        _draw_rows(rows, edges, probs, names, colours, shares[order])
        _mark_time(rows, edges[-1])
        with files.atomic_write(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120)


def _draw_strip(axes, edges: np.ndarray, likeliest: np.ndarray, names: list[str], colours: list[str]) -> None:
    """Runs of one likeliest class, each with its name where there is room for it."""
    changes = np.flatnonzero(np.diff(likeliest)) + 1
    begins = np.concatenate([[0], changes])
    ends = edges[np.concatenate([changes, [len(likeliest)]])]
    for begin, end in zip(begins, ends, strict=True):
        which, start = likeliest[begin], edges[begin]
        axes.axvspan(start, end, color=colours[which], linewidth=0)
        if (end - start) / edges[-1] * LETTERS > len(names[which]) + 2:
            ink = "white" if colours[which] in DARK else "black"
            axes.text((start + end) / 2, 0.5, names[which], ha="center", va="center", color=ink)
    axes.set(ylim=(0, 1), yticks=[0.5], yticklabels=["likeliest"])
    axes.text(1.005, 0.5, "share of\nthe time", transform=axes.transAxes, va="center", fontsize=9, color=QUIET)
    _bare(axes)


def _draw_rows(axes, edges: np.ndarray, probs: np.ndarray, names: list[str], colours: list[str], shares) -> None:
    bottoms = np.arange(len(names))[::-1]
    for bottom, own, colour in zip(bottoms, probs.T, colours, strict=True):
        axes.fill_between(edges, bottom, bottom + 0.9 * np.append(own, own[-1]), step="post", color=colour, linewidth=0)
        axes.axhline(bottom, color="#bbbbbb", linewidth=0.6)
    axes.set(ylim=(0, len(names)), yticks=bottoms + 0.4, yticklabels=names)
    right = axes.secondary_yaxis("right")
    right.set_yticks(bottoms + 0.4, [f"{share:.0%}" for share in shares])
    right.tick_params(length=0)
    right.spines[:].set_visible(False)
    _bare(axes)


def _bare(axes) -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _mark_time(axes, length_s: float) -> None:
    """A mark every round step, about twelve of them."""
    step = next((step for step in STEPS_S if length_s / step <= 14), 24 * 3600)
    form, unit = ("h:mm", 60) if length_s >= 3600 else ("m:ss", 1)
    marks = np.arange(0, length_s + 0.01, step)
    axes.set_xticks(marks, [f"{int(s) // (60 * unit)}:{int(s) // unit % 60:02d}" for s in marks])
    axes.set(xlim=(0, length_s), xlabel=f"time ({form})")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)


def _shortened(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
