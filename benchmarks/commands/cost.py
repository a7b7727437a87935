"""Duration of the whole recipe on a machine, and of predicting a thousand to ten million tracks, from measured rates.

The competition's data: 5,158 training tracks in ten classes, 1,733 test tracks.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from benchmarks import timing
from benchmarks.commands import bottleneck, suite
from benchmarks.commands.bench import networks, prepare
from benchmarks.commands.compare import duration
from benchmarks.commands.saved import read_suite
from melgpu.data import windows
from melgpu.errors import InputError
from melgpu.recipe import Recipe, load_recipe

CLASS_TRACKS = {str(label): tracks for label, tracks in enumerate((36, 446, 523, 369, 392, 372, 279, 2586, 62, 93), 1)}
TEST_TRACKS = 1733
PSEUDO_FRACTION = 0.5  # of the test tracks; assumed, as the competition's audio is not available
EPOCHS = 20  # until early stopping; assumed
LIBRARY_TRACKS = (1_000, 100_000, 10_000_000)  # tracks to predict
REQUIRED_STAGES = ["features", "loader", "train", "predict"]


@dataclass(frozen=True)
class Rates:
    """Measured rates, in windows a second.

    `train` : training steps of each network, from files
    `audio` : from files to batches
    `pictures` : from waves on the device to pictures
    `views` : views (pictures or mirror images) that one network predicts, the mean of all networks
    `shared` : whether all stages share the same cores (on a CPU); on a GPU audio overlaps with the device's work
    """

    train: dict[str, float]
    audio: float
    pictures: float
    views: float
    shared: bool

    def from_files(self, networks: int, views: int) -> float:
        """Windows a second from files to the predictions of a number of networks, each of `views` views a window."""
        alone = {"audio": self.audio, "pictures": self.pictures, "networks": self.views / (networks * views)}
        return bottleneck.combined_rate(alone, self.shared)


def suite_rates(result: dict, recipe: Recipe, source: str) -> Rates:
    """The rates in a suite's result. Raises InputError where some are missing or of another recipe's pictures."""
    rows = {(row["stage"], row["way"]): row for row in result.get("rows", [])}
    names = networks(recipe)
    train = {name: rows[key]["windows_per_s"] for name in names if (key := ("train", f"{name}, from files")) in rows}
    ensemble = [
        row for (stage, variant), row in rows.items() if stage == "predict" and variant.endswith("networks alone")
    ]
    missing = [*(name for name in names if name not in train), *([] if ensemble else ["predict"])]
    alone = bottleneck.before_networks(result)
    missing += [stage for stage, rate in (("loader", "audio"), ("features", "pictures")) if rate not in alone]
    if missing:
        reason = " (a preview, --quick)" if result.get("quick") else ""
        remedy = f"python -m benchmarks --out {source} measures them"
        raise InputError(f"{source}: no rates of {', '.join(missing)}{reason}; {remedy}")
    for table in ("audio", "windows", "mel"):
        if result["recipe"][table] != recipe.model_dump(mode="json")[table]:
            raise InputError(f"{source}: measured with another recipe ({table} differs)")
    views = ensemble[0]["windows_per_s"] * ensemble[0]["models"] * (2 if recipe.predict.flip else 1)
    return Rates(train, **alone, views=views, shared=not result["on_gpu"])


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


def windows_per_track(recipe: Recipe, hop_s: float) -> int:
    """Prediction windows of a track."""
    return windows.num_windows(recipe.audio.track_s, recipe.windows.window_s, hop_s)


def training_s(recipe: Recipe, rates: Rates, round_number: int, max_epochs: int | None) -> float:
    """Seconds of all trainings of a round, each of `max_epochs` or the recipe's maximum, whichever is smaller."""
    spec = recipe.rounds[round_number - 1]
    fold_tracks = sum(CLASS_TRACKS.values()) / recipe.folds.num_folds
    valid = fold_tracks * windows_per_track(recipe, recipe.windows.predict_hop_s)
    total = 0.0
    for name in spec.backbones:
        optim = recipe.optim_for(name)
        epochs = min(optim.max_epochs, max_epochs or optim.max_epochs)
        train = epoch_windows(recipe, round_number, optim.batch_size)
        total += epochs * (train / rates.train[name] + valid / rates.from_files(1, 1))
    return total * len(spec.folds)


def prediction_s(recipe: Recipe, rates: Rates, round_number: int) -> float:
    """Seconds to predict every track with all networks of a round."""
    spec, views = recipe.rounds[round_number - 1], 2 if recipe.predict.flip else 1
    count = sum(CLASS_TRACKS.values()) * windows_per_track(recipe, recipe.windows.predict_hop_s)
    count += TEST_TRACKS * windows_per_track(recipe, recipe.windows.public_hop_s)
    return count / rates.from_files(len(spec.backbones) * len(spec.folds), views)


def steps(recipe: Recipe, rates: Rates) -> Iterator[tuple[str, float, float]]:
    """The steps of the recipe, with their seconds at EPOCHS and at the maximum number of epochs."""
    for round_number, spec in enumerate(recipe.rounds, start=1):
        trainings = len(spec.backbones) * len(spec.folds)
        typical_s, max_s = (training_s(recipe, rates, round_number, epochs) for epochs in (EPOCHS, None))
        yield f"round {round_number}: {trainings} trainings", typical_s, max_s
        predict_s = prediction_s(recipe, rates, round_number)
        tracks = sum(CLASS_TRACKS.values()) + TEST_TRACKS
        yield f"round {round_number}: predicting {tracks:,} tracks", predict_s, predict_s


def libraries(recipe: Recipe, rates: Rates) -> dict[int, float]:
    """Seconds to predict libraries of music with the last round's ensemble, by number of tracks."""
    spec, views = recipe.rounds[-1], 2 if recipe.predict.flip else 1
    rate = rates.from_files(len(spec.backbones) * len(spec.folds), views)
    count = windows_per_track(recipe, recipe.windows.predict_hop_s)
    return {tracks: tracks * count / rate for tracks in LIBRARY_TRACKS}


def assumptions(recipe: Recipe, rates: Rates, batch_size: int) -> list[str]:
    """The assumptions of the estimate besides the rates."""
    return [
        f"{sum(CLASS_TRACKS.values()):,} training tracks in classes of {', '.join(map(str, CLASS_TRACKS.values()))}; "
        f"{TEST_TRACKS:,} test tracks, all with the public test's hop; each {recipe.audio.track_s:g} s",
        f"trainings stop after {EPOCHS} epochs; the second duration is for the recipe's maximum",
        f"{PSEUDO_FRACTION:.0%} of the test tracks get pseudo labels, with the training tracks' class distribution"
        if len(recipe.rounds) > 1
        else "one round has no pseudo labels",
        f"the rates of training were measured on batches of {batch_size} windows",
        "every epoch decodes all files again and validates a fold; the head's first epoch is as slow as the others",
        "stages share the cores, so that their times add up"
        if rates.shared
        else "audio overlaps with pictures and networks, which alternate on the GPU",
        "stacking (minutes), loading and checkpoints are left out; so is the first check of all files",
    ]


def make_table(cost: dict) -> Table:
    unit, per_hour = cost["unit"], cost["devices"]
    table = Table(title=f"Duration on {cost['device']}, {cost['cores']} cores", box=SIMPLE)
    for column in ("", f"{EPOCHS} epochs", unit, "all epochs", unit):
        table.add_column(column, justify="right" if column else "left")
    for step, *durations_s in [*cost["steps"], ["the whole recipe", *cost["whole_s"]]]:
        cells = [cell for step_s in durations_s for cell in (duration(step_s), f"{step_s / 3600 * per_hour:,.1f}")]
        table.add_row(step, *cells)
    for tracks, library_s in cost["libraries_s"].items():
        hours = f"{library_s / 3600 * per_hour:,.1f}"
        table.add_row(f"predicting {int(tracks):,} tracks", duration(library_s), hours)
    return table


def estimate(result: dict, recipe: Recipe, source: str) -> dict:
    """The cost from a suite's rates, as JSON data. Raises InputError."""
    rates = suite_rates(result, recipe, source)
    all_steps = list(steps(recipe, rates))
    total_s = [sum(column) for column in list(zip(*all_steps, strict=True))[1:]]
    copied = ("schema", "device", "cores", "driver", "packages", "git_commit", "date", "platform", "python", "threads")
    cost = {"benchmark": "cost", **{key: result[key] for key in copied}, "rates": asdict(rates), "steps": all_steps}
    library_s = {str(tracks): seconds for tracks, seconds in libraries(recipe, rates).items()}
    cost |= {"whole_s": total_s, "libraries_s": library_s}
    on_gpu = result["on_gpu"]
    cost |= {"unit": "GPU-hours" if on_gpu else "core-hours", "devices": 1 if on_gpu else result["cores"]}
    return cost | {"assumptions": assumptions(recipe, rates, result["batch_size"])}


def suite_result(args: argparse.Namespace) -> tuple[dict, str]:
    """A suite's result, from a file or measured now, and its name in messages. Raises InputError."""
    if args.suite_file and args.quick:
        raise InputError("--quick measures again: leave it out beside --from")
    if args.suite_file:
        return read_suite(args.suite_file), str(args.suite_file)
    with tempfile.TemporaryDirectory() as folder:
        return suite.run(prepare(args, Path(folder), "loader.workers"), REQUIRED_STAGES), "suite.json"


def main(args: argparse.Namespace) -> int:
    """Estimate, print and save what the recipe costs here."""
    result, source = suite_result(args)
    cost = estimate(result, load_recipe(args.recipe, args.overrides), source)
    console = timing.console()
    console.print(make_table(cost))
    for line in cost["assumptions"]:
        console.print(f"assumed: {line}")
    return timing.finish(cost, args.out, ())
