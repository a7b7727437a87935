"""Rows of a comparison as tables: for the terminal, as Markdown, as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.box import SIMPLE
from rich.table import Table

from benchmarks.experiments.comparison import PRIVATE, TEST, VALIDATION, Row
from benchmarks.experiments.statistics import Estimate

TITLES = {TEST: "test tracks", VALIDATION: "validation tracks", PRIVATE: "private test tracks"}
NOTES = (
    "difference: of accuracy on the same tracks by the same folds and seeds; (95 % interval by bootstrap over tracks) "
    "[over tracks and trainings]",
    "could be seen: 2.8 standard errors, the difference that a test at 5 % finds with a power of 80 %",
    "test tracks were never seen, but for public ones where their pseudo labels are trained on: see private ones then",
    "of 20 differences that are none, one is outside its interval by chance",
    "of validation tracks the best epoch was chosen: their accuracy is too high, for all variants alike",
)


def header(tracks: str) -> tuple[str, ...]:
    place = TITLES[tracks]
    return "variant", "cells", place, "difference", "could be seen", "ensemble", "windows", "minutes a cell"


def body(rows: Sequence[Row], minutes: dict[str, float], tracks: str) -> Iterator[tuple[str, ...]]:
    """The cells of a table: one line for each variant, then one for each pair."""
    accuracies = {row.variant: row for row in rows if row.against is None}
    to_base = {row.variant: row for row in rows if row.against == "base"}
    for variant, row in accuracies.items():
        if (tracks, "network") in row.estimates:
            yield _line(variant, row, to_base.get(variant), minutes.get(variant), tracks)
    for row in rows:
        if row.against not in (None, "base") and (tracks, "network") in row.estimates:
            yield _line(f"{row.variant} - {row.against}", None, row, None, tracks)


def _line(name: str, accuracy: Row | None, difference: Row | None, minutes: float | None, tracks: str) -> tuple:
    of_ensemble = _both(accuracy, difference, tracks, "ensemble")
    of_windows = _both(accuracy, difference, tracks, "windows")
    by_network = difference.estimates.get((tracks, "network")) if difference else None
    counted = accuracy or difference
    return (
        name,
        str(counted.num_cells) if counted else "",
        f"{accuracy.estimates[tracks, 'network'].mean:.3f}" if accuracy else "",
        _difference(by_network) if by_network else "",
        f"{by_network.detectable:.3f}" if by_network else "",
        of_ensemble,
        of_windows,
        f"{minutes:.1f}" if minutes else "",
    )


def _both(accuracy: Row | None, difference: Row | None, tracks: str, measure: str) -> str:
    """An accuracy and its difference, as far as there are both."""
    parts = []
    if accuracy:
        parts.append(f"{accuracy.estimates[tracks, measure].mean:.3f}")
    if difference and (tracks, measure) in difference.estimates:
        estimate = difference.estimates[tracks, measure]
        parts.append(f"{estimate.mean:+.3f} ({estimate.low:+.2f} to {estimate.high:+.2f})")
    return " ".join(parts)


def _difference(estimate: Estimate) -> str:
    text = f"{estimate.mean:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"
    if estimate.low_all is None or estimate.high_all is None:
        return text
    return f"{text} [{estimate.low_all:+.3f} to {estimate.high_all:+.3f}]"


def for_terminal(rows: Sequence[Row], minutes: dict[str, float], tracks: str) -> Table:
    table = Table(title=f"Accuracy on {TITLES[tracks]}", box=SIMPLE)
    for column in header(tracks):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for line in body(rows, minutes, tracks):
        table.add_row(*line)
    return table


def markdown(rows: Sequence[Row], minutes: dict[str, float], tracks: str) -> str:
    lines = [header(tracks), ("---",) * len(header(tracks)), *body(rows, minutes, tracks)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def as_json(rows: Sequence[Row]) -> list[dict]:
    """Rows as JSON data, rounded to what 10,000 resamples can tell."""
    return [
        {
            "variant": row.variant,
            "against": row.against,
            "cells": row.num_cells,
            "estimates": {" ".join(key): _rounded(asdict(estimate)) for key, estimate in row.estimates.items()},
        }
        for row in rows
    ]


def from_json(data: Sequence[dict]) -> list[Row]:
    """The rows that `as_json` wrote."""
    rows = []
    for item in data:
        keys = [(key, *key.split(" ", 1)) for key in item["estimates"]]
        estimates = {(tracks, measure): Estimate(**item["estimates"][key]) for key, tracks, measure in keys}
        rows.append(Row(item["variant"], item["against"], item["cells"], estimates))
    return rows


def _rounded(values: dict) -> dict:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}
