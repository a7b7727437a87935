"""Pictures of a run's page: learning curves, calibration, and what a window looks like.

Curves are SVG whose letters are left to the reader's own fonts; windows are small PNG. Both come as `data:` URIs.
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from melgpu.metrics import Calibration, wilson_interval
from melgpu.prediction.timeline_plot import COLOURS, QUIET

INK, LINE, ACCENT = "#1f2733", "#dfe3e8", "#2b5c8a"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "melgpu",  # the same picture, the same bytes
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": LINE,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.parse_math": False,
}
SHADES = 64  # of a window's picture: more cost bytes that nobody sees
Log = Sequence[Mapping[str, float]]


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def colour(number: int) -> str:
    """Of a fold's line."""
    return COLOURS[number % len(COLOURS)]


def learning_curves(logs: Mapping[int, Log]) -> str:
    """Training loss above, share of validation windows that are right below; {fold: its epochs' records}."""
    with _styled():
        figure = _figure(3.5, 3.1)
        loss, right = figure.subplots(2, 1, sharex=True)
        for fold, log in logs.items():
            epochs = [record["epoch"] for record in log]
            marker = "o" if len(log) == 1 else None
            loss.plot(epochs, [record["loss"] for record in log], color=colour(fold), linewidth=1.4, marker=marker)
            accuracies = np.array([100 * record["window_accuracy"] for record in log])
            right.plot(epochs, accuracies, color=colour(fold), linewidth=1.4)
            best = int(accuracies.argmax())
            right.plot(epochs[best], accuracies[best], "o", color=colour(fold), markersize=4.5)
        highest = max(record["loss"] for log in logs.values() for record in log)
        loss.set(title="training loss", ylim=(0, 1.08 * highest or 1))
        right.set(title="validation windows right, %", xlabel="epoch")
        _whole_numbers(right, max(record["epoch"] for log in logs.values() for record in log))
        return _svg(figure)


def reliability_diagram(found: Calibration) -> str:
    """How often answers are right, with its 95 % interval, against how sure they are; below, how many answers."""
    with _styled():
        figure = _figure(3.5, 3.7)
        right, many = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        sure, share = 100 * found.confidence, 100 * found.accuracy
        bounds = 100 * np.array([wilson_interval(*pair) for pair in zip(found.accuracy, found.counts, strict=True)])
        spread = np.abs(bounds.T - share)
        right.plot([0, 100], [0, 100], color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
        right.errorbar(sure, share, spread, fmt="o", color=ACCENT, markersize=5, elinewidth=1, clip_on=False)
        right.set(title="answers that are right, %", xlim=(0, 100), ylim=(0, 100))
        many.bar(sure, found.counts, width=5, color=ACCENT, alpha=0.75)
        for x, count in zip(sure, found.counts.tolist(), strict=True):
            many.text(x, count, str(count), ha="center", va="bottom", fontsize=7.5)
        many.set(title="answers", xlabel="probability of the answer, %", yticks=[])
        many.set_ylim(0, 1.35 * found.counts.max())
        many.spines["left"].set_visible(False)
        return _svg(figure)


def window_picture(shades: np.ndarray) -> str:
    """A window's log-mel picture, shape (S, S) in [0, 1], as the front end draws it, in viridis."""
    from matplotlib.image import imsave

    coarse = np.round(np.nan_to_num(shades) * (SHADES - 1)) / (SHADES - 1)
    file = io.BytesIO()
    imsave(file, coarse, vmin=0, vmax=1, cmap="viridis", format="png", metadata={"Software": None})
    return data_uri("image/png", file.getvalue())


@contextmanager
def _styled() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def _figure(width_in: float, height_in: float):
    from matplotlib.figure import Figure

    return Figure((width_in, height_in), layout="constrained", facecolor="none")


def _whole_numbers(axes, last: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlim(min(0.8, 1 - 0.02 * last), last + max(0.2, 0.02 * last))


def _svg(figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = file.getvalue().replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")
    return data_uri("image/svg+xml", text.encode())
