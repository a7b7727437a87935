"""What a run's scores do not tell, or tell too well: its known biases, as sentences that fit what the run has.

Each caveat is a title and a text; the report shows them beside the scores, and this module is their only home.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from melgpu.audio import duplicates, fingerprint
from melgpu.audio.duplicates import Duplicate
from melgpu.console import counted
from melgpu.data import dataset_check
from melgpu.data.manifest import TEST_SPLITS, Split
from melgpu.report import summary
from melgpu.report.analysis import RoundResult
from melgpu.runs.distillation.distributions import Origin, TeacherPredictions
from melgpu.runs.formats.scores import Scores
from melgpu.runs.run import Run

MIN_CHANGES = 6  # all in one direction: the fewest with a sign test below SIGNIFICANCE_LEVEL, 2 / 2**6


@dataclass(frozen=True)
class Caveat:
    """What one kind of bias does to the scores of a run."""

    title: str
    text: str


@dataclass(frozen=True)
class Recordings:
    """Pairs of files with the same recording, each in one line; None where they were not searched for.

    num_leaks : how many are in two folds or splits; they come first
    num_others : pairs that are not among them, as the run has no such file
    """

    pairs: list[str] | None
    num_leaks: int
    num_others: int = 0


def recordings(run: Run) -> Recordings:
    """What `train.py` found when it made the run. Raises InputError for a damaged file."""
    found = duplicates.load(run.paths.duplicates)
    if found is None:
        return Recordings(None, 0)
    of_run = set(run.manifest.paths)
    known: Sequence[Duplicate] = [pair for pair in found if {pair.path, pair.other} <= of_run]
    lines = dataset_check.describe_duplicates(known, run.manifest)
    return Recordings(lines, len(dataset_check.leaks(known, run.manifest)), len(found) - len(known))


def headline(result: RoundResult, scores: Scores, same_recordings: Recordings) -> str:
    """The most important of them, for the top of the report."""
    split = summary.best_split(scores)
    if split is None:
        return "There is no score."
    score = next(iter(scores.values()))[split]
    sentence = f"Trust most the score on {split.description} tracks, which chose and trained nothing."
    if split is Split.VALID and _most_epochs(result) == 1:
        sentence = "Trust most the score on validation tracks, which chose no epoch: networks train for one."
    elif split is Split.VALID:
        sentence = "Expect less on other music: validation tracks chose the epochs of the networks."
    elif score.num_pseudo_labelled:
        count = f"{score.num_pseudo_labelled} {split.description} tracks"
        target = "the teacher's answers" if result.run.recipe.distil else "a pseudo label"
        sentence = f"Expect less on other music: {count} were trained on, with {target}."
    if same_recordings.num_leaks:
        sentence += f" {_leak_sentence(same_recordings.num_leaks)}"
    return sentence


def caveats(result: RoundResult, scores: Scores, same_recordings: Recordings) -> list[Caveat]:
    """All that apply to a round, in the order of the report."""
    found = [Caveat("Number of tracks", " ".join(_track_counts(scores)))]
    found.append(Caveat("Epochs", " ".join(_epochs(result))))
    found.append(Caveat("Stacking", " ".join(_stacking(result))))
    if result.run.uses_pseudo(result.round_number):
        found.append(Caveat("Pseudo labels", " ".join(_pseudo_labels(result))))
    if result.run.teacher_predictions:
        found.append(Caveat("Teacher", " ".join(_teacher(result, result.run.teacher_predictions))))
    found.append(Caveat("Test sets", _test_sets(result)))
    found.append(Caveat("Same recordings", _same_recordings(result.run, same_recordings)))
    found.append(
        Caveat(
            "Artists",
            "Music of one artist, album or session in two folds or sets makes scores too good as well. Folds keep an "
            "artist's tracks together only where the list of tracks names artists; test sets are taken as they are.",
        )
    )
    found.append(
        Caveat(
            "Other runs",
            "Intervals are over tracks: what another seed or other music would change is not in them. Where the best "
            "of several runs is chosen by a score, that score is too good for it.",
        )
    )
    return found


def _track_counts(scores: Scores) -> Iterator[str]:
    by_split = next(iter(scores.values()), {})
    for split, score in by_split.items():
        name = f"{counted(score.num_tracks, f'{split.description} track')}"
        if score.num_tracks < MIN_CHANGES:
            yield f"{name}: too few for any difference to be significant."
            continue
        needed = _points(MIN_CHANGES / score.num_tracks)
        yield (
            f"{name}: one is {_points(1 / score.num_tracks)} points of accuracy, and no difference below "
            f"{needed} points can be significant."
        )
    if not by_split:
        yield "No track that is evaluated has a known label."


def _points(difference: float) -> str:
    return summary.in_percent(difference, 1 if difference > 0.01 else 2)


def _most_epochs(result: RoundResult) -> int:
    backbones = result.run.round_spec(result.round_number).backbones
    return max(result.run.recipe.optim_for(backbone).total_epochs for backbone in backbones)


def _epochs(result: RoundResult) -> Iterator[str]:
    spec = result.run.round_spec(result.round_number)
    most_epochs = _most_epochs(result)
    if most_epochs == 1:
        yield "Networks train for one epoch: none is chosen."
        return
    yield (
        f"Of up to {most_epochs} epochs each network keeps the one with the best accuracy on windows of its fold's "
        "validation tracks, so its score on those tracks is too good."
    )
    if result.evaluation.metadata.settings.blend:
        yield "Their mean, the stackers and the blends predict from these networks, and inherit that."
    elif len(spec.backbones) > 1:
        yield "Their mean inherits that."


def _stacking(result: RoundResult) -> Iterator[str]:
    run = result.run
    spec = run.round_spec(result.round_number)
    metadata = result.evaluation.metadata
    if metadata.settings.blend:
        yield (
            "Nested: validation tracks are divided into up to "
            f"{metadata.settings.stacking.num_subfolds} sub-folds, and each track is scored by stackers and fitted "
            "weights that were neither fitted nor stopped on it."
        )
        if metadata.selection:
            yield "So is auto: each sub-fold is scored by the predictor that the others select."
        yield "Not nested: the epochs of the networks, and the settings of the recipe."
    else:
        yield "Nothing is stacked, so nothing is fitted to the predictions on validation tracks."
    if result.round_number == run.last_round and summary.changed_settings_sentence(run, metadata.settings):
        yield "It was stacked anew by settings of its own: where scores chose them, the score is too good for it."
    num_networks = len(result.run.jobs(result.round_number))
    if len(spec.folds) > 1:
        yield (
            f"Validation tracks are predicted by the {len(spec.backbones)} of {num_networks} networks that were not "
            "trained on them, test tracks and new music by all."
        )


def _pseudo_labels(result: RoundResult) -> Iterator[str]:
    run = result.run
    number = result.round_number
    count = len(run.round_tracks(number).pseudo_rows)
    public = len(run.manifest.rows(Split.PUBLIC))
    if count == 0:
        yield f"None of {public} public test tracks was selected: round {number} trained without pseudo labels."
        return
    has_score = Split.PUBLIC in result.evaluation.labelled_splits
    consequence = ": the score on public test tracks tells little of other music" if has_score else ""
    yield (
        f"{count} of {public} public test tracks trained the networks of round {number} with a pseudo label, correct "
        f"or not{consequence}."
    )
    selecting = run.round_spec(number - 1).folds
    seen = [fold for fold in run.round_spec(number).folds if set(selecting) != {fold}]
    if seen:
        yield (
            f"The labels come from networks of round {number - 1} ({_folds(selecting)}) that had trained on "
            f"tracks which round {number} validates on ({_folds(seen)}): through them validation scores are too "
            "good, too."
        )


def _teacher(result: RoundResult, predicted: TeacherPredictions) -> Iterator[str]:
    tracks = result.run.manifest
    is_validation = np.isin(tracks.folds, result.run.round_spec(result.round_number).folds)
    validation = Counter(predicted.origins[row] for row in np.flatnonzero(is_validation))
    if num_trained := validation[Origin.TRAINED]:
        yield (
            f"The teacher trained on {counted(num_trained, 'validation track')}: its score on them is too good, and so "
            "may be that of the student, which it taught."
        )
    if num_out_of_fold := validation[Origin.OUT_OF_FOLD]:
        yield (
            f"{counted(num_out_of_fold, 'validation track')}: the teacher's score is that of networks which did not "
            "train on them. Its networks of other folds, if it has such, learned from their labels, and taught the "
            "student on its training tracks: scores of both are too good."
        )
    if num_taught := len(result.run.round_tracks(result.round_number).pseudo_rows):
        yield f"{counted(num_taught, 'public test track')} taught the student, without labels."
    test = Counter(predicted.origins[row] for row in result.run.manifest.test_rows)
    if num_trained := test[Origin.TRAINED]:
        yield f"The teacher trained on {counted(num_trained, 'test track')}: its score on them is too good, too."
    elif Split.PRIVATE in result.evaluation.labelled_splits:
        yield "Both differ least from other music on private test tracks, which neither learned from."


def _test_sets(result: RoundResult) -> str:
    labelled = [split for split in TEST_SPLITS if split in result.evaluation.labelled_splits]
    if not labelled:
        return (
            "No label of a test track is known, so validation tracks are all that is scored. Music with labels that is "
            "kept out of training (--private) gives a score that nothing was chosen by."
        )
    names = summary.enumeration([split.description for split in labelled])
    return f"Labels of {names} tracks are used for scores only."


def _same_recordings(run: Run, same_recordings: Recordings) -> str:
    if same_recordings.pairs is None:
        return (
            "Not searched for: the run is older than the search, or its tracks are too short for fingerprints. "
            "train.py --check searches the files of a run."
        )
    if same_recordings.num_others:
        verb = "is" if same_recordings.num_others == 1 else "are"
        others = f"{counted(same_recordings.num_others, 'pair')} of {run.paths.duplicates.name} {verb} not counted"
        found = _found_recordings(run, same_recordings) if same_recordings.pairs else ""
        return f"{found} {others}: of other paths than the run's. Repeat train.py with its --data.".lstrip()
    return _found_recordings(run, same_recordings)


def _found_recordings(run: Run, same_recordings: Recordings) -> str:
    audio = run.recipe.audio
    if not fingerprint.can_compare(audio.sample_rate, audio.track_s):
        return f"{_same_content(run, same_recordings)} As for other formats, {dataset_check.NOT_COMPARED}."
    if not same_recordings.pairs:
        return f"By their audio fingerprints none of the {len(run.manifest)} files has the recording of another."
    if not same_recordings.num_leaks:
        return f"{counted(len(same_recordings.pairs), 'pair')} of files, none in two folds or sets: no leak."
    return _leak_sentence(same_recordings.num_leaks)


def _same_content(run: Run, same_recordings: Recordings) -> str:
    """Of tracks without fingerprints."""
    if not same_recordings.pairs:
        return f"None of the {len(run.manifest)} files has the content of another."
    if not same_recordings.num_leaks:
        count = counted(len(same_recordings.pairs), "pair")
        return f"{count} of files with the same content, none in two folds or sets."
    return _leak_sentence(same_recordings.num_leaks)


def _leak_sentence(num_leaks: int) -> str:
    pairs = counted(num_leaks, "pair")
    verb = "is" if num_leaks == 1 else "are"
    return f"{pairs} of files with the same recording {verb} in two folds or sets, which makes scores too good."


def _folds(folds: Sequence[int]) -> str:
    return f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}"
