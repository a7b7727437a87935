"""Plots of results: bars, curves, a roofline."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

INK, FAINT = "#1f4e79", "#c9d6e3"


def bars(rates: dict[tuple[str, str], float], unit: str, title: str, path: Path, baseline: float | None = None) -> None:
    """Horizontal bars of {(name, group): rate}, each with its value, the groups of a name side by side."""
    names, groups = (list(dict.fromkeys(column)) for column in zip(*rates, strict=True))
    names = names[::-1]
    figure, axes = plt.subplots(figsize=(8, 1 + 0.25 * len(names) * (1 + len(groups))), layout="constrained")
    for k, group in enumerate(groups):
        positions = [i + ((len(groups) - 1) / 2 - k) * 0.8 / len(groups) for i in range(len(names))]
        widths = [rates.get((name, group), 0) for name in names]
        container = axes.barh(
            positions, widths, 0.8 / len(groups), label=group, color=INK if len(groups) == 1 else None
        )
        axes.bar_label(container, [_short(rate).strip() if rate else "" for rate in widths], padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.margins(x=0.1, y=0.3 / len(names))
    if baseline:
        axes.axvline(baseline, color="black", linewidth=0.8, linestyle="--")
    axes.set_xlabel(unit)
    axes.set_title(title, fontsize=10)
    if len(groups) > 1:
        axes.legend(frameon=False)
    _save(figure, path)


def limit_bars(rows: list[tuple[str, float, float]], unit: str, title: str, path: Path) -> None:
    """(name, rate, limit) as bars on a logarithmic axis: the measured rate in front of its physical limit."""
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.32 * len(rows)), layout="constrained")
    positions = range(len(rows))[::-1]
    axes.barh(positions, [limit for _, _, limit in rows], 0.75, color=FAINT, label="physical limit")
    axes.barh(positions, [rate for _, rate, _ in rows], 0.75, color=INK, label="measured")
    for position, (_, rate, limit) in zip(positions, rows, strict=True):
        axes.text(
            max(rate, limit) * 1.1, position, f"{_short(rate).strip()} ({rate / limit:.0%})", va="center", fontsize=8
        )
    axes.set_xscale("log")
    axes.set_xlim(min(rate for _, rate, _ in rows) / 3, max(max(row[1:]) for row in rows) * 8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.set_yticks(positions, [name for name, _, _ in rows], fontsize=8)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(unit)
    axes.set_title(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    _save(figure, path)


def curves(panels: dict[str, dict[str, dict[int, float]]], unit: str, title: str, path: Path) -> None:
    """{x label: {name: {x: rate}}}, one panel each; dashed lines are linear scaling from the first point.

    The y axis of a panel is logarithmic where its rates differ by more than a factor of 20.
    """
    figure, grid = plt.subplots(1, len(panels), figsize=(4.8 * len(panels), 4), layout="constrained", squeeze=False)
    for axes, (x_label, lines) in zip(grid[0], panels.items(), strict=True):
        _curve(axes, lines)
        axes.set_xlabel(x_label)
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    grid[0][0].set_ylabel(unit)
    figure.suptitle(f"{title} (dashed: linear scaling)", fontsize=10)
    _save(figure, path)


def _curve(axes: Axes, lines: dict[str, dict[int, float]]) -> None:
    values = sorted({value for points in lines.values() for value in points})
    rates = [rate for points in lines.values() for rate in points.values()]
    for name, points in lines.items():
        (line,) = axes.plot(list(points), list(points.values()), "o-", label=name)
        first, rate = next(iter(points.items()))
        ideal = [rate * value / first for value in points]
        axes.plot(list(points), ideal, "--", color=line.get_color(), linewidth=0.8, alpha=0.5)
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [str(value) for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    if max(rates) > 20 * min(rates):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.grid(alpha=0.3)


def roofline(
    points: list[tuple[str, float, float]], peaks: dict[str, float], bandwidth: float, title: str, path: Path
) -> None:
    """(name, FLOPs a byte, FLOP/s) below the limits of memory (bytes a second) and of matrix products (FLOP/s)."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    highest = max(peaks.values())
    left = min([intensity for _, intensity, _ in points] + [highest / bandwidth / 10]) / 3
    right = max([intensity for _, intensity, _ in points] + [highest / bandwidth]) * 6
    for (name, peak), style in zip(peaks.items(), ("-", "--", ":"), strict=False):
        ridge = peak / bandwidth
        axes.plot([left, ridge, right], [left * bandwidth, peak, peak], style, color="black", linewidth=1)
        axes.text(right, peak * 1.06, f"{name}, {_short(peak)}FLOP/s ", ha="right", fontsize=8)
    axes.text(left * 2.2, left * bandwidth * 1.1, f"memory, {_short(bandwidth)}B/s", fontsize=8)
    for i, (name, intensity, rate) in enumerate(points):
        axes.plot(intensity, rate, "osD^vP*X<>ph"[i % 12], color=f"C{i % 10}", label=name)
    axes.set(xscale="log", yscale="log", xlim=(left, right), xlabel="FLOPs a byte", ylabel="FLOP/s")
    axes.set_ylim(top=highest * 3)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize=10)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    _save(figure, path)


def _short(value: float) -> str:
    """1,234,567 as 1.2 M."""
    for scale, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= scale:
            unit = 1e3 if letter == "k" else scale
            return f"{value / unit:.3g} {letter}"
    return f"{value:,.3g} " if value < 1000 else f"{value:,.0f} "


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
