"""How long the whole recipe takes on this machine, and judging a thousand to ten million tracks: arithmetic on rates.

The competition's data: 5,158 training tracks in ten classes, 1,733 test tracks.
"""

import json
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
from melgpu.data import windows
from melgpu.errors import InputError
from melgpu.recipe import Recipe, load_recipe

CLASS_TRACKS = {str(label): tracks for label, tracks in enumerate((36, 446, 523, 369, 392, 372, 279, 2586, 62, 93), 1)}
TEST_TRACKS = 1733
PSEUDO_SHARE = 0.5  # of the test tracks: assumed, as the competition's audio is not to be had
EPOCHS = 20  # until early stopping, typically: assumed
LIBRARIES = (1_000, 100_000, 10_000_000)  # tracks to judge
NEEDED = ["features", "loader", "train", "predict"]


@dataclass(frozen=True)
class Rates:
    """What was measured, in windows a second.

    `train` : of each network, from files
    `audio` : from files to batches
    `pictures` : from samples that lie on the device to pictures
    `views` : pictures that one network judges, the mean of all
    `shared` : whether all stages share the same cores (on a CPU); on a GPU audio is made while the device works
    """

    train: dict[str, float]
    audio: float
    pictures: float
    views: float
    shared: bool

    def report_error(self, networks: float, views: int) -> float:
        """Windows a second from files through so many networks, each so many views."""
        alone = {"audio": self.audio, "pictures": self.pictures, "networks": self.views / (networks * views)}
        return bottleneck.together(alone, self.shared)


def rates_of(result: dict, recipe: Recipe, source: str) -> Rates:
    """The rates in a suite's result. Raises InputError where some are missing or of another recipe's pictures."""
    rows = {(one["stage"], one["way"]): one for one in result.get("rows", [])}
    names = networks(recipe)
    train = {name: rows[key]["windows_per_s"] for name in names if (key := ("train", f"{name}, from files")) in rows}
    judged = [one for (stage, way), one in rows.items() if stage == "predict" and way.endswith("networks alone")]
    missing = [*(name for name in names if name not in train), *([] if judged else ["predict"])]
    alone = bottleneck.before_networks(result)
    missing += [stage for stage, own in (("loader", "audio"), ("features", "pictures")) if own not in alone]
    if missing:
        why = " (it is a first look, --quick)" if result.get("quick") else ""
        told = f"no rates of {', '.join(missing)}{why}; python -m benchmarks --out {source} takes them"
        raise InputError(f"{source}: {told}")
    for table in ("audio", "windows", "mel"):
        if result["recipe"][table] != recipe.model_dump(mode="json")[table]:
            raise InputError(f"{source}: taken with another recipe ({table} differs)")
    views = judged[0]["windows_per_s"] * judged[0]["models"] * (2 if recipe.predict.flip else 1)
    return Rates(train, **alone, views=views, shared=not result["on_gpu"])


def class_windows(recipe: Recipe) -> dict[str, int]:
    """Training windows of a track of each class."""
    spec, track_s = recipe.windows, recipe.audio.track_s
    hops = {label: spec.dense_hop_s if label in spec.dense_classes else spec.hop_s for label in CLASS_TRACKS}
    return {label: windows.num_windows(track_s, spec.window_s, hop_s) for label, hop_s in hops.items()}


def epoch_windows(recipe: Recipe, round_number: int, batch_size: int) -> int:
    """Windows of an epoch: all folds' training tracks but one's, from round 2 on with pseudo labels."""
    counts = class_windows(recipe)
    labelled = sum(CLASS_TRACKS[label] * counts[label] for label in counts)
    total = labelled * (1 - 1 / recipe.folds.num_folds)
    if round_number > 1:
        total += PSEUDO_SHARE * TEST_TRACKS * labelled / sum(CLASS_TRACKS.values())  # the same mixture of classes
    return int(total) // batch_size * batch_size


def judged_windows(recipe: Recipe, hop_s: float) -> int:
    """Windows by which a track is judged."""
    return windows.num_windows(recipe.audio.track_s, recipe.windows.window_s, hop_s)


def training_s(recipe: Recipe, rates: Rates, round_number: int, most_epochs: int | None) -> float:
    """Seconds of all trainings of a round, each of `most_epochs` or what the recipe allows."""
    spec = recipe.rounds[round_number - 1]
    own = sum(CLASS_TRACKS.values()) / recipe.folds.num_folds
    valid = own * judged_windows(recipe, recipe.windows.predict_hop_s)
    total = 0.0
    for name in spec.backbones:
        optim = recipe.optim_for(name)
        epochs = min(optim.max_epochs, most_epochs or optim.max_epochs)
        train = epoch_windows(recipe, round_number, optim.batch_size)
        total += epochs * (train / rates.train[name] + valid / rates.report_error(1, 1))
    return total * len(spec.folds)


def prediction_s(recipe: Recipe, rates: Rates, round_number: int) -> float:
    """Seconds until all networks of a round have judged every track."""
    spec, views = recipe.rounds[round_number - 1], 2 if recipe.predict.flip else 1
    count = sum(CLASS_TRACKS.values()) * judged_windows(recipe, recipe.windows.predict_hop_s)
    count += TEST_TRACKS * judged_windows(recipe, recipe.windows.public_hop_s)
    return count / rates.report_error(len(spec.backbones) * len(spec.folds), views)


def steps(recipe: Recipe, rates: Rates) -> Iterator[tuple[str, float, float]]:
    """What has to be done, with its seconds at a typical and at the largest number of epochs."""
    for number, spec in enumerate(recipe.rounds, start=1):
        trainings = len(spec.backbones) * len(spec.folds)
        usual, most = (training_s(recipe, rates, number, epochs) for epochs in (EPOCHS, None))
        yield f"round {number}: {trainings} trainings", usual, most
        predicting = prediction_s(recipe, rates, number)
        yield f"round {number}: predicting {sum(CLASS_TRACKS.values()) + TEST_TRACKS:,} tracks", predicting, predicting


def libraries(recipe: Recipe, rates: Rates) -> dict[int, float]:
    """Seconds to judge so many tracks by the last round's ensemble."""
    spec, views = recipe.rounds[-1], 2 if recipe.predict.flip else 1
    rate = rates.report_error(len(spec.backbones) * len(spec.folds), views)
    count = judged_windows(recipe, recipe.windows.predict_hop_s)
    return {tracks: tracks * count / rate for tracks in LIBRARIES}


def assumptions(recipe: Recipe, rates: Rates, batch_size: int) -> list[str]:
    """What the figures rest on besides the rates."""
    return [
        f"{sum(CLASS_TRACKS.values()):,} training tracks in classes of {', '.join(map(str, CLASS_TRACKS.values()))}; "
        f"{TEST_TRACKS:,} test tracks, all with the public test's hop; each {recipe.audio.track_s:g} s",
        f"trainings stop after {EPOCHS} epochs; the second figure is for all that the recipe allows",
        f"half of the test tracks get pseudo labels ({PSEUDO_SHARE:.0%}), of the training tracks' mixture of classes"
        if len(recipe.rounds) > 1
        else "one round has no pseudo labels",
        f"trainings' rates were measured on batches of {batch_size} windows",
        "every epoch decodes all files anew and validates a fold; the head's first epoch is as slow as the others",
        "stages share the cores, so that their times add up"
        if rates.shared
        else "audio overlaps with pictures and networks, which take turns on the GPU",
        "stacking (minutes), loading and checkpoints are left out; so is the first look at all files",
    ]


def table(cost: dict) -> Table:
    unit, per_hour = cost["unit"], cost["devices"]
    shown = Table(title=f"What it takes on {cost['device']}, {cost['cores']} cores", box=SIMPLE)
    for column in ("", f"{EPOCHS} epochs", unit, "all epochs", unit):
        shown.add_column(column, justify="right" if column else "left")
    for what, *both in [*cost["steps"], ["the whole recipe", *cost["whole_s"]]]:
        cells = [cell for own in both for cell in (duration(own), f"{own / 3600 * per_hour:,.1f}")]
        shown.add_row(what, *cells)
    for tracks, own in cost["libraries_s"].items():
        shown.add_row(f"judging {int(tracks):,} tracks", duration(own), f"{own / 3600 * per_hour:,.1f}")
    return shown


def of(result: dict, recipe: Recipe, source: str) -> dict:
    """The cost by a suite's rates, as JSON data."""
    rates = rates_of(result, recipe, source)
    done = list(steps(recipe, rates))
    whole = [sum(column) for column in list(zip(*done, strict=True))[1:]]
    kept = ("schema", "device", "cores", "driver", "packages", "git_commit", "date", "platform", "python", "threads")
    cost = {"benchmark": "cost", **{key: result[key] for key in kept}, "rates": asdict(rates), "steps": done}
    cost |= {"whole_s": whole, "libraries_s": {str(tracks): own for tracks, own in libraries(recipe, rates).items()}}
    on_gpu = result["on_gpu"]
    cost |= {"unit": "GPU-hours" if on_gpu else "core-hours", "devices": 1 if on_gpu else result["cores"]}
    return cost | {"assumptions": assumptions(recipe, rates, result["batch_size"])}


def measured(args) -> tuple[dict, str]:
    """A suite's result: that of a file, or taken now; and what to call it. Raises InputError."""
    if args.measured and args.quick:
        raise InputError("--quick measures anew: leave it out beside --from")
    if args.measured:
        return read(args.measured), str(args.measured)
    with tempfile.TemporaryDirectory() as folder:
        return suite.run(prepare(args, Path(folder), "loader.workers"), NEEDED), "suite.json"


def read(path: Path) -> dict:
    """A result that was kept. Raises InputError."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no result of a benchmark ({error})") from None
    if not isinstance(found, dict) or found.get("benchmark") != "suite" or found.get("schema") != timing.SCHEMA:
        raise InputError(f"{path}: no result of python -m benchmarks of today's schema")
    return found


def main(args) -> int:
    """Show and keep what the recipe costs here."""
    result, source = measured(args)
    cost = of(result, load_recipe(args.recipe, args.overrides), source)
    console = timing.console()
    console.print(table(cost))
    for line in cost["assumptions"]:
        console.print(f"assumed: {line}")
    return timing.finish(cost, args.out, ())
