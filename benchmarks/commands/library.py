"""Measured rates -> tracks a second by number of networks, time and price of libraries of music, number of parts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Table

from benchmarks.commands import bottleneck
from benchmarks.commands.bench import networks
from benchmarks.commands.rates import Rates
from melgpu.console import counted
from melgpu.data import windows
from melgpu.recipe import Recipe
from melgpu.recipe_schema import RoundSpec

LIBRARY_TRACKS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
PART_S = 3600.0  # long beside the start of a process, short beside what a time limit or a lost machine may cost
MAX_PARTS = 1_000  # of an array, by Slurm's default
MIN_SHOWN = 0.001
TITLES = {"audio": "decoding", "pictures": "pictures", "networks": "networks"}


@dataclass(frozen=True)
class Speed:
    """Tracks a second from files to probabilities, and what limits them: audio, pictures or networks."""

    networks: str
    views: int
    tracks_per_s: float
    limited_by: str


@dataclass(frozen=True)
class Library:
    """Seconds of one device to predict a number of tracks: of each stage alone, and of all.

    `price` : of these seconds; None without a price an hour
    `parts` : the number of parts that is advised
    """

    tracks: int
    audio_s: float
    pictures_s: float
    networks_s: float
    total_s: float
    price: float | None
    parts: int


def network_names(spec: RoundSpec) -> list[str]:
    """The networks of a round, a name for each fold."""
    return [name for name in spec.backbones for _ in spec.folds]


def num_views(recipe: Recipe) -> int:
    """Views of a window that a network predicts."""
    return 2 if recipe.predict.flip else 1


def windows_per_track(recipe: Recipe, hop_s: float) -> int:
    """Prediction windows of a track."""
    return windows.num_windows(recipe.audio.track_s, recipe.windows.window_s, hop_s)


def speeds(recipe: Recipe, rates: Rates) -> Iterator[Speed]:
    """The fastest and the slowest network alone, one of each, and the ensemble; with and without the mirror image."""
    distinct = networks(recipe)
    names = sorted(distinct, key=rates.train.__getitem__)
    choices = {f"1: {names[-1]}": names[-1:], f"1: {names[0]}": names[:1]}
    choices |= {f"{len(chosen)}: {_sorts(chosen)}": chosen for chosen in (distinct, network_names(recipe.rounds[-1]))}
    per_track = windows_per_track(recipe, recipe.windows.predict_hop_s)
    for name, chosen in choices.items():
        for views in (1, 2):
            stages = rates.stages(chosen, views)
            limit = bottleneck.slowest(bottleneck.limiting_stages(stages, rates.shared))
            yield Speed(name, views, rates.from_files(chosen, views) / per_track, limit)


def _sorts(names: Sequence[str]) -> str:
    """Which networks these are: a name where they are of one kind, else the number of kinds."""
    kinds = set(names)
    return names[0] if len(kinds) == 1 else f"of {len(kinds)} kinds"


def libraries(recipe: Recipe, rates: Rates, price_per_hour: float | None) -> list[Library]:
    """What libraries of music take with the ensemble, on one device."""
    names = network_names(recipe.rounds[-1])
    views = num_views(recipe)
    stages = rates.stages(names, views)
    rate = rates.from_files(names, views)
    per_track = windows_per_track(recipe, recipe.windows.predict_hop_s)
    result = []
    for tracks in LIBRARY_TRACKS:
        count = tracks * per_track
        total_s = count / rate
        price = None if price_per_hour is None else total_s / 3600 * price_per_hour
        each_s = {f"{stage}_s": count / stage_rate for stage, stage_rate in stages.items()}
        result.append(Library(tracks, **each_s, total_s=total_s, price=price, parts=num_parts(total_s)))
    return result


def num_parts(total_s: float) -> int:
    """Parts of PART_S, at most MAX_PARTS; then they are longer."""
    return min(max(1, math.ceil(total_s / PART_S)), MAX_PARTS)


def assumptions(recipe: Recipe, rates: Rates) -> list[str]:
    """The assumptions of both tables besides the rates."""
    size = recipe.mel.image_size
    return [
        f"new music: {recipe.audio.track_s:g} s of each track, pictures of {size} x {size}; "
        "of another size python -m benchmarks measures other rates",
        "a network takes the same share of prediction as of training steps: only all together were measured predicting",
        "audio is decoded from local files; a network or disk that is slower limits the rate",
        f"parts of about {PART_S / 3600:g} h, at most {MAX_PARTS:,}, Slurm's default limit of an array; the start of a "
        "part is left out",
        "a price is of an hour of this GPU with its cores, or without a GPU of this machine",
    ]


def speed_table(cost: dict) -> Table:
    table = Table(title="New music, tracks a second", box=SIMPLE)
    for column in ("networks", "views", "tracks/s", "limited by"):
        table.add_column(column, justify="right" if column in ("views", "tracks/s") else "left")
    for row in cost["speeds"]:
        table.add_row(row["networks"], str(row["views"]), number(row["tracks_per_s"]), TITLES[row["limited_by"]])
    return table


def library_table(cost: dict) -> Table:
    of_networks = counted(cost["networks"], "network")
    title = f"New music, {of_networks}, views: {cost['views']}; {cost['unit']} by stage"
    table = Table(title=title, box=SIMPLE)
    for column in ("tracks", *TITLES.values(), "together", "price", "parts", "a part"):
        table.add_column(column, justify="right")
    for row in cost["libraries"]:
        stages_s = [row[key] for key in ("audio_s", "pictures_s", "networks_s", "total_s")]
        hours = [number(stage_s / 3600 * cost["devices"]) for stage_s in stages_s]
        price = "" if row["price"] is None else f"{row['price']:,.2f}"
        part = f"{number(row['total_s'] / 3600 / row['parts'])} h"
        table.add_row(f"{row['tracks']:,}", *hours, price, f"{row['parts']:,}", part)
    return table


def number(value: float) -> str:
    """Three digits, or all before the decimal point."""
    if value < MIN_SHOWN:
        return f"< {MIN_SHOWN}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
