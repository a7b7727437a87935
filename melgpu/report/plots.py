"""Plots of a run's report: learning curves, reliability diagrams, and log-mel pictures of windows.

Plots are SVG whose text uses the browser's fonts; log-mel pictures are small PNG. Both are `data:` URIs.
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from melgpu.metrics import Calibration, wilson_interval
from melgpu.models.metadata import EpochRecord
from melgpu.prediction.timeline_plot import COLOURS, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

TEXT_COLOUR = "#1f2733"
LINE_COLOUR = "#dfe3e8"
ACCENT = "#2b5c8a"
STYLE: "dict[RcKeyType, object]" = {
    "svg.fonttype": "none",  # text stays text, in the browser's fonts
    "svg.hashsalt": "melgpu",  # the same plot, the same bytes
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": TEXT_COLOUR,
    "axes.labelcolor": GREY,
    "axes.edgecolor": LINE_COLOUR,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE_COLOUR,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.parse_math": False,  # a "$" is a character like others
}
NUM_LEVELS = 64  # of a log-mel picture: more make a larger file without a visible difference


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def colour(fold: int) -> str:
    """The colour of a fold's line."""
    return COLOURS[fold % len(COLOURS)]


def learning_curves(logs: Mapping[int, Sequence[EpochRecord]]) -> str:
    """Training loss above, accuracy on validation windows below, of the training logs by fold."""
    with _styled():
        figure = _figure(3.5, 3.1)
        loss_axes, accuracy_axes = figure.subplots(2, 1, sharex=True)
        for fold, log in logs.items():
            epochs = [record.epoch for record in log]
            marker = "o" if len(log) == 1 else None  # a line of one point would be invisible
            losses = [record.loss for record in log]
            loss_axes.plot(epochs, losses, color=colour(fold), linewidth=1.4, marker=marker)
            accuracies = np.array([100 * record.window_accuracy for record in log])
            accuracy_axes.plot(epochs, accuracies, color=colour(fold), linewidth=1.4)
            best = int(accuracies.argmax())
            accuracy_axes.plot(epochs[best], accuracies[best], "o", color=colour(fold), markersize=4.5)
        max_loss = max(record.loss for log in logs.values() for record in log)
        # 8 % of space above the highest loss; limits must differ, also where all losses are 0.
        loss_axes.set(title="training loss", ylim=(0, 1.08 * max_loss or 1))
        accuracy_axes.set(title="accuracy on validation windows, %", xlabel="epoch")
        _set_integer_ticks(accuracy_axes, max(record.epoch for log in logs.values() for record in log))
        return _svg(figure)


def reliability_diagram(calibration: Calibration) -> str:
    """Accuracy by confidence, with its 95 % interval; below, the number of predictions in each bin."""
    with _styled():
        figure = _figure(3.5, 3.7)
        accuracy_axes, count_axes = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        confidence = 100 * calibration.confidence
        accuracy = 100 * calibration.accuracy
        bins = zip(calibration.correct, calibration.counts, strict=True)
        bounds = 100 * np.array([wilson_interval(correct, count) for correct, count in bins])
        error_bars = np.abs(bounds.T - accuracy)  # (2, B): errorbar takes distances from the accuracy
        accuracy_axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        accuracy_axes.errorbar(
            confidence, accuracy, error_bars, fmt="o", color=ACCENT, markersize=5, elinewidth=1, clip_on=False
        )
        accuracy_axes.set(title="accuracy, %", xlim=(0, 100), ylim=(0, 100))
        count_axes.bar(confidence, calibration.counts, width=5, color=ACCENT, alpha=0.75)
        for x, count in zip(confidence, calibration.counts.tolist(), strict=True):
            count_axes.text(x, count, str(count), ha="center", va="bottom", fontsize=7.5)
        count_axes.set(title="predictions", xlabel="confidence, %", yticks=[])
        count_axes.set_ylim(0, 1.35 * calibration.counts.max())  # room for the numbers above the bars
        count_axes.spines["left"].set_visible(False)
        return _svg(figure)


def window_picture(picture: np.ndarray) -> str:
    """A window's log-mel picture, one channel of shape (S, S) in [0, 1], in viridis, as a PNG."""
    from matplotlib.image import imsave

    quantized = np.round(np.nan_to_num(picture) * (NUM_LEVELS - 1)) / (NUM_LEVELS - 1)
    file = io.BytesIO()
    metadata: dict[str, Any] = {"Software": None}  # without matplotlib's version: the same picture, the same bytes
    imsave(file, quantized, vmin=0, vmax=1, cmap="viridis", format="png", metadata=metadata)
    return data_uri("image/png", file.getvalue())


@contextmanager
def _styled() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def _figure(width_in: float, height_in: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure((width_in, height_in), layout="constrained", facecolor="none")


def _set_integer_ticks(axes: "Axes", last: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    # A margin of 2 % of the epochs, so that no marker is cut; at least 0.2, so that a single epoch has an axis, too.
    axes.set_xlim(min(0.8, 1 - 0.02 * last), last + max(0.2, 0.02 * last))


def _svg(figure: "Figure") -> str:
    file = io.StringIO()
    # Without date and version: the same plot, the same bytes.
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    # matplotlib lays the text out with a font of its own; the browser is to use the system's.
    text = file.getvalue().replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")
    return data_uri("image/svg+xml", text.encode())
