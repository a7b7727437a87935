"""A finished run as the teacher of another: which of its networks predict which of a student's tracks.

A training track of the teacher is predicted by the networks of its fold, which did not train on it, by those of the
latest round that has the fold; any other track by all networks of the latest round. Tracks are the same where their
files have the same content.
"""

import filecmp
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melgpu import console
from melgpu.audio.remote import is_url
from melgpu.audio.walk import natural_key
from melgpu.data.lists.sources import SourceList
from melgpu.data.manifest import MANIFEST_SPLITS, Manifest, Split
from melgpu.errors import InputError, printable
from melgpu.models import checkpoint
from melgpu.models.metadata import NetworkProvenance
from melgpu.recipe import Recipe
from melgpu.runs.distillation.distributions import Origin, predicted_rows
from melgpu.runs.folder import open_run
from melgpu.runs.job import Job
from melgpu.runs.run import Run

ALL_NETWORKS = -1  # in place of a fold
MAX_NAMED = 10  # classes in a message


@dataclass(frozen=True)
class Teacher:
    """A run with a finished round.

    jobs : of its latest finished round
    fold_jobs : of the latest finished round that has a fold, by fold
    digest : of its networks
    """

    run: Run
    jobs: list[Job]
    fold_jobs: dict[int, list[Job]]
    digest: str

    def provenance(self, jobs: list[Job]) -> list[NetworkProvenance]:
        """That of some of its networks, with the digests of their checkpoints."""
        return [self.run.job_provenance(job, checkpoint.digest(self.run.paths.checkpoint(job))) for job in jobs]


def open_teacher(folder: Path) -> Teacher:
    """Raises InputError where there is no run with a finished round."""
    run = open_run(folder)
    rounds = range(1, run.last_stacked_round + 1)
    if not rounds:
        raise InputError(f"--teacher {folder}: no round of this run is finished; first {run.command_line('train')}")
    fold_jobs = {}
    for round_number in rounds:  # a later round replaces an earlier one
        for fold in run.round_spec(round_number).folds:
            fold_jobs[fold] = [job for job in run.jobs(round_number) if job.fold == fold]
    teacher = Teacher(run, run.jobs(rounds[-1]), fold_jobs, "")
    jobs = [*teacher.jobs, *(job for of_fold in fold_jobs.values() for job in of_fold)]
    texts = [network.model_dump_json() for network in teacher.provenance(jobs)]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    return Teacher(run, teacher.jobs, fold_jobs, digest)


def check_student(recipe: Recipe, teacher: Recipe) -> None:
    """Raise InputError with the settings of a student by which its windows are not those that the teacher predicts."""
    values = {f"audio.{name}": (getattr(recipe.audio, name), expected) for name, expected in teacher.audio}
    values["windows.window_s"] = recipe.windows.window_s, teacher.windows.window_s
    differences = [(key, *pair) for key, pair in values.items() if pair[0] != pair[1]]
    if differences:
        raise InputError(
            f"{key} {value}: a student has its teacher's, {expected}" for key, value, expected in differences
        )


def check_classes(labels: Sequence[str], teacher: Teacher) -> None:
    """Raise InputError where the labels of a student's training tracks are not its teacher's classes."""
    expected = teacher.run.class_names
    unknown = sorted(set(labels) - set(expected), key=natural_key)
    absent = sorted(set(expected) - set(labels), key=natural_key)
    problems = []
    if unknown:
        problems.append(
            f"classes that the teacher {teacher.run.folder} does not know: {_named(unknown)}; leave them out"
        )
    if absent:
        problems.append(
            f"classes of the teacher {teacher.run.folder} without training tracks: {_named(absent)}; add some"
        )
    if problems:
        raise InputError(problems)


def _named(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - MAX_NAMED} more" if len(labels) > MAX_NAMED else ""
    return ", ".join(printable(label, 40) for label in labels[:MAX_NAMED]) + more


def source_lists(teacher: Teacher, num_folds: int) -> dict[Split, SourceList]:
    """The teacher's tracks and folds as source lists, for a student that names none; tracks without a fold left out.

    Raises InputError where the student has another number of folds.
    """
    expected = teacher.run.recipe.folds.num_folds
    if num_folds != expected:
        raise InputError(
            f"folds.num_folds {num_folds}: a student without --labels has its teacher's folds, which are {expected}: "
            "leave the setting out"
        )
    tracks = teacher.run.manifest
    path = teacher.run.paths.manifest
    lists = {}
    for split in MANIFEST_SPLITS:
        rows = [row for row in tracks.rows(split).tolist() if split is not Split.TRAIN or tracks.folds[row] >= 0]
        if rows:
            lists[split] = SourceList(
                ids=[tracks.ids[row] for row in rows],
                paths=[tracks.paths[row] for row in rows],
                labels=[tracks.labels[row] for row in rows],
                groups=[""] * len(rows),
                locations=[f"{path}, line {row + 2}" for row in rows],
                submission_ids=[tracks.submission_ids[row] for row in rows] if tracks.submission_ids else [],
                run_folds=tracks.folds[rows].tolist() if split is Split.TRAIN else [],
            )
    return lists


@dataclass(frozen=True)
class Part:
    """The tracks that the same networks predict: rows of the student's manifest and their origins, shape (R,)."""

    name: str
    rows: np.ndarray
    origins: tuple[Origin, ...]
    jobs: list[Job]


def plan_parts(student: Manifest, teacher: Teacher) -> list[Part]:
    """All tracks of a student, by the networks that predict them."""
    teacher_rows = _teacher_rows(teacher.run.manifest, student)
    trained = set(teacher.run.round_tracks(teacher.run.last_stacked_round).pseudo_rows.tolist())
    rows_of: dict[int, list[int]] = {}  # by fold
    origins: dict[int, Origin] = {}
    for row in predicted_rows(student).tolist():
        folds = {int(teacher.run.manifest.folds[other]) for other in teacher_rows[row]} - {-1}
        fold = min(folds) if len(folds) == 1 else ALL_NETWORKS
        if fold in teacher.fold_jobs and trained.isdisjoint(teacher_rows[row]):
            origins[row] = Origin.OUT_OF_FOLD
        else:
            fold = ALL_NETWORKS
            origins[row] = Origin.UNSEEN if not folds and trained.isdisjoint(teacher_rows[row]) else Origin.TRAINED
        rows_of.setdefault(fold, []).append(row)
    parts = []
    for fold, rows in sorted(rows_of.items()):
        name = "all" if fold == ALL_NETWORKS else f"fold{fold}"
        jobs = teacher.jobs if fold == ALL_NETWORKS else teacher.fold_jobs[fold]
        parts.append(Part(name, np.array(rows), tuple(origins[row] for row in rows), jobs))
    return parts


def _teacher_rows(teacher: Manifest, student: Manifest) -> list[list[int]]:
    """For each of a student's tracks the teacher's rows of the same file: of equal content or path."""
    rows_by_path: dict[str, list[int]] = {}
    rows_by_content: dict[str, list[int]] = {}
    for row, (path, content) in enumerate(zip(teacher.paths, teacher.contents, strict=True)):
        rows_by_path.setdefault(_real_path(path), []).append(row)
        if content:
            rows_by_content.setdefault(content, []).append(row)
    rows_of_tracks = []
    for path, content in zip(student.paths, student.contents, strict=True):
        rows = rows_by_path.get(_real_path(path), [])
        similar = [row for row in rows_by_content.get(content, []) if row not in rows]
        copies = [row for row in similar if _has_same_content(path, teacher.paths[row])]
        rows_of_tracks.append(sorted([*rows, *copies]))
    return rows_of_tracks


def _has_same_content(path: str, other: str) -> bool:
    """Compare files of the same size and beginning; where one is not there any more they count as the same.

    A copy that is not recognized may be predicted by networks that trained on it, which is worse than the reverse.
    """
    try:
        return filecmp.cmp(path, other, shallow=False)
    except OSError:
        return True


def _real_path(path: str) -> str:
    return path if is_url(path) else os.path.realpath(path)


def say_counts(parts: list[Part], teacher: Teacher) -> None:
    """Say which networks predict how many tracks."""
    counts = Counter(origin for part in parts for origin in part.origins)
    words = {
        Origin.OUT_OF_FOLD: "by networks that did not train on them",
        Origin.UNSEEN: f"that none trained on, by the mean of all {len(teacher.jobs)}",
        Origin.TRAINED: "that all its networks trained on, where they may be overconfident",
    }
    phrases = [f"{counts[origin]} {text}" for origin, text in words.items() if counts[origin]]
    console.say(f"Teacher {teacher.run.folder} predicts {sum(counts.values())} tracks: {'; '.join(phrases)}")
