"""Duration of the whole recipe on a machine, and what predicting libraries of music takes, from measured rates.

The competition's data: 5,158 training tracks in ten classes, 1,733 test tracks.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from benchmarks import timing
from benchmarks.commands import library, suite
from benchmarks.commands.bench import prepare
from benchmarks.commands.compare import duration
from benchmarks.commands.rates import Rates, rates_of, read_result
from melgpu.console import counted
from melgpu.data import windows
from melgpu.errors import InputError
from melgpu.recipe import Recipe, load_recipe

CLASS_TRACKS = {str(label): tracks for label, tracks in enumerate((36, 446, 523, 369, 392, 372, 279, 2586, 62, 93), 1)}
TEST_TRACKS = 1733
PSEUDO_FRACTION = 0.5  # of the test tracks; assumed, as the competition's audio is not available
EPOCHS = 20  # until early stopping; assumed
REQUIRED_STAGES = ["features", "loader", "train", "predict"]


def class_windows(recipe: Recipe) -> dict[str, int]:
    """Training windows of one track by class."""
    spec, track_s = recipe.windows, recipe.audio.track_s
    hops = {label: spec.dense_hop_s if label in spec.dense_classes else spec.hop_s for label in CLASS_TRACKS}
    return {label: windows.num_windows(track_s, spec.window_s, hop_s) for label, hop_s in hops.items()}


def epoch_windows(recipe: Recipe, round_number: int, batch_size: int) -> int:
    """Windows of an epoch: the tracks of all folds but one, from round 2 on with pseudo labels."""
    counts = class_windows(recipe)
    labelled = sum(CLASS_TRACKS[label] * counts[label] for label in counts)
    total = labelled * (1 - 1 / recipe.folds.num_folds)
    if round_number > 1:
        total += PSEUDO_FRACTION * TEST_TRACKS * labelled / sum(CLASS_TRACKS.values())  # the same class distribution
    return int(total) // batch_size * batch_size


def training_s(recipe: Recipe, rates: Rates, round_number: int, max_epochs: int | None) -> float:
    """Seconds of all trainings of a round, each of `max_epochs` or the recipe's maximum, whichever is smaller."""
    spec = recipe.rounds[round_number - 1]
    fold_tracks = sum(CLASS_TRACKS.values()) / recipe.folds.num_folds
    valid = fold_tracks * library.windows_per_track(recipe, recipe.windows.predict_hop_s)
    total = 0.0
    for name in spec.backbones:
        optim = recipe.optim_for(name)
        epochs = min(optim.total_epochs, max_epochs or optim.total_epochs)
        train = epoch_windows(recipe, round_number, optim.batch_size)
        total += epochs * (train / rates.train[name] + valid / rates.from_files([name], 1))
    return total * len(spec.folds)


def prediction_s(recipe: Recipe, rates: Rates, round_number: int) -> float:
    """Seconds to predict every track with all networks of a round."""
    spec = recipe.rounds[round_number - 1]
    names = library.network_names(spec)
    count = sum(CLASS_TRACKS.values()) * library.windows_per_track(recipe, recipe.windows.predict_hop_s)
    count += TEST_TRACKS * library.windows_per_track(recipe, recipe.windows.public_hop_s)
    return count / rates.from_files(names, library.num_views(recipe))


def steps(recipe: Recipe, rates: Rates) -> Iterator[tuple[str, float, float]]:
    """The steps of the recipe, with their seconds at EPOCHS and at the maximum number of epochs."""
    for round_number, spec in enumerate(recipe.rounds, start=1):
        trainings = len(spec.backbones) * len(spec.folds)
        typical_s, max_s = (training_s(recipe, rates, round_number, epochs) for epochs in (EPOCHS, None))
        yield f"round {round_number}: {counted(trainings, 'training')}", typical_s, max_s
        predict_s = prediction_s(recipe, rates, round_number)
        tracks = sum(CLASS_TRACKS.values()) + TEST_TRACKS
        yield f"round {round_number}: predicting {tracks:,} tracks", predict_s, predict_s


def assumptions(recipe: Recipe, rates: Rates) -> list[str]:
    """The assumptions of the estimate besides the rates."""
    return [
        f"{sum(CLASS_TRACKS.values()):,} training tracks in classes of {', '.join(map(str, CLASS_TRACKS.values()))}; "
        f"{TEST_TRACKS:,} test tracks, all with the public test's hop; each {recipe.audio.track_s:g} s",
        f"trainings stop after {EPOCHS} epochs; the second duration is for the recipe's maximum",
        f"{PSEUDO_FRACTION:.0%} of the test tracks get pseudo labels, with the training tracks' class distribution"
        if len(recipe.rounds) > 1
        else "one round has no pseudo labels",
        f"the rates of training were measured on batches of {rates.batch_size} windows",
        "every epoch decodes all files again and validates a fold; the head's first epoch is as slow as the others",
        "stages share the cores, so that their times add up"
        if rates.shared
        else "audio overlaps with pictures and networks, which alternate on the GPU",
        "stacking (minutes), loading and checkpoints are left out; so is the first check of all files",
        *(["the teacher, which is trained and predicts all tracks before, is left out"] if recipe.distil else []),
        *library.assumptions(recipe, rates),
        *([rates.bounds] if rates.bounds else []),
    ]


def make_table(cost: dict) -> Table:
    unit, per_hour = cost["unit"], cost["devices"]
    table = Table(title=f"Duration on {cost['device']}, {cost['cores']} cores", box=SIMPLE)
    for column in ("", f"{EPOCHS} epochs", unit, "all epochs", unit):
        table.add_column(column, justify="right" if column else "left")
    for step, *durations_s in [*cost["steps"], ["the whole recipe", *cost["whole_s"]]]:
        cells = [cell for step_s in durations_s for cell in (duration(step_s), f"{step_s / 3600 * per_hour:,.1f}")]
        table.add_row(step, *cells)
    return table


def estimate(result: dict, recipe: Recipe, source: str, price_per_hour: float | None) -> dict:
    """The cost from a result's rates, as JSON data. Raises InputError."""
    rates = rates_of(result, recipe, source)
    all_steps = list(steps(recipe, rates))
    total_s = [sum(column) for column in list(zip(*all_steps, strict=True))[1:]]
    copied = ("schema", "device", "cores", "driver", "packages", "git_commit", "date", "platform", "python", "threads")
    cost = {"benchmark": "cost", **{key: result[key] for key in copied}, "rates": asdict(rates), "steps": all_steps}
    cost |= {"whole_s": total_s, "price_per_hour": price_per_hour}
    cost |= {"networks": len(library.network_names(recipe.rounds[-1])), "views": library.num_views(recipe)}
    cost |= {"speeds": [asdict(speed) for speed in library.speeds(recipe, rates)]}
    cost |= {"libraries": [asdict(row) for row in library.libraries(recipe, rates, price_per_hour)]}
    cost |= {"unit": "core-hours" if rates.shared else "GPU-hours", "devices": result["cores"] if rates.shared else 1}
    return cost | {"assumptions": assumptions(recipe, rates)}


def measured_result(args: argparse.Namespace) -> tuple[dict, str]:
    """A result, from a file or by the suite now, and its name in messages. Raises InputError."""
    if args.result_file and args.quick:
        raise InputError("--quick measures again: leave it out beside --from")
    if args.result_file:
        return read_result(args.result_file), str(args.result_file)
    with tempfile.TemporaryDirectory() as folder:
        return suite.run(prepare(args, Path(folder), "loader.workers"), REQUIRED_STAGES), "suite.json"


def main(args: argparse.Namespace) -> int:
    """Estimate, print and save what the recipe costs here."""
    if args.price is not None and not args.price >= 0:
        raise InputError(f"--price {args.price:g}: not a price of an hour")
    result, source = measured_result(args)
    cost = estimate(result, load_recipe(args.recipe, args.overrides), source, args.price)
    console = timing.console()
    for table in (make_table(cost), library.speed_table(cost), library.library_table(cost)):
        console.print(table)
    for line in cost["assumptions"]:
        console.print(f"assumed: {line}")
    return timing.finish(cost, args.out, ())
