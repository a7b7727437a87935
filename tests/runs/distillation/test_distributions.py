from dataclasses import replace

import numpy as np
import pytest
import torch

from melgpu.data.batch import Batch
from melgpu.errors import InputError
from melgpu.models.metadata import NetworkProvenance
from melgpu.recipe import load_recipe
from melgpu.runs import sampling
from melgpu.runs.distillation import distributions
from melgpu.runs.distillation.distributions import Distributions, Origin, TeacherProvenance
from melgpu.runs.run import Run

TEACHER = "0123456789abcdef"
NETWORK = NetworkProvenance(round=1, recipe_digest="1f", pseudo_digest="none", backbone="resnet50", fold=0)


@pytest.fixture
def student(made) -> Run:
    """A run of 12 training and 2 public test tracks that learns from a teacher, with three windows a track."""
    recipe = load_recipe(
        ["student", "scratch"], ["windows.hop_s=6.0", f"distil.teacher='{TEACHER}'"], teacher=made.recipe
    )
    return replace(made, recipe=recipe)


def part_of(run: Run, rows, **changes) -> Distributions:
    """Random distributions over the windows of some rows."""
    index = sampling.teacher_windows(run, np.array(rows[:1]))
    probs = np.random.default_rng(rows[0]).dirichlet(np.ones(2), (len(rows), len(index))).astype(np.float32)
    values = {
        "ids": tuple(run.manifest.ids[row] for row in rows),
        "splits": tuple(run.manifest.splits[row] for row in rows),
        "origins": (Origin.OUT_OF_FOLD,) * len(rows),
        "unusable": np.zeros(len(rows), bool),
        "starts": index.starts,
        "probs": probs,
        "class_names": ("a", "b"),
        "provenance": TeacherProvenance(teacher=TEACHER, networks=[NETWORK]),
    }
    return Distributions(**{**values, **changes})


def save(run: Run, name: str, part: Distributions) -> None:
    distributions.save(part, run.paths.teacher_part(name))


def test_parts_are_joined_in_the_manifests_order(student):
    first, second = part_of(student, [13, 3, 5]), part_of(student, [0, 1, 2, 4, *range(6, 13)])
    save(student, "all", first)
    save(student, "fold0", second)
    predictions = student.teacher_predictions
    assert np.array_equal(predictions.probs[[13, 3, 5]], first.probs)
    assert np.array_equal(predictions.probs[12], second.probs[-1])
    assert predictions.track_probs[3] == pytest.approx(first.probs[1].mean(0))
    assert not predictions.unusable.any()
    assert predictions.num_networks == 1


def test_a_student_trains_on_unlabelled_music_by_its_teacher_alone(student):
    save(student, "all", part_of(student, list(range(14)), unusable=np.arange(14) == 12))
    (job,) = student.jobs(1)
    train, valid = student.round_tracks(1).fold_rows(job.fold)
    assert set(train.tolist()) == set(range(12)) - set(valid.tolist()) | {13}  # 12 has no usable audio
    targets = sampling.training_targets(student, job)
    assert targets.classes[13] == student.teacher_predictions.track_probs[13].argmax()
    index = sampling.training_windows(student, job)
    columns = torch.from_numpy(index.tracks).long(), torch.from_numpy(index.starts).long()
    rows = targets.for_batch(Batch(torch.zeros(len(index), 1), *columns, torch.ones(len(index), dtype=torch.bool)), 0.0)
    weight, temperature = student.recipe.distil.label_weight, student.recipe.distil.temperature
    for row, track, start in zip(rows.tolist(), index.tracks.tolist(), index.starts.tolist(), strict=True):
        window = student.teacher_predictions.starts.tolist().index(start)
        probs = student.teacher_predictions.probs[track, window] ** (1 / temperature)
        label_weight = 0.0 if track == 13 else weight
        expected = (1 - label_weight) * temperature**2 * probs / probs.sum()
        assert row[2:] == pytest.approx(expected.tolist(), rel=1e-4)
        assert sum(row[:2]) == pytest.approx(label_weight)
    assert student.provenance(1).pseudo_digest == student.teacher_predictions.digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"provenance": TeacherProvenance(teacher="f" * 16, networks=[])}, "of the teacher ffffffffffffffff, not 0123"),
        ({"class_names": ("a", "c")}, "of other classes than this run's"),
        ({"ids": ("other.wav", *(f"{i}.wav" for i in range(1, 12)), "x.wav", "y.wav")}, "of other tracks or windows"),
    ],
)
def test_distributions_of_others_are_refused(student, changes, message):
    save(student, "all", part_of(student, list(range(14)), **changes))
    with pytest.raises(InputError, match=message):
        _ = student.teacher_predictions


def test_missing_tracks_and_other_windows_are_refused(student):
    save(student, "all", part_of(student, list(range(12))))
    with pytest.raises(InputError, match=r"has not predicted 2 of the run's tracks yet: repeat the train\.py"):
        _ = student.teacher_predictions
    part = part_of(student, list(range(14)))
    save(student, "all", replace(part, starts=part.starts + 1))
    with pytest.raises(InputError, match="of other windows than those that this run trains on"):
        sampling.training_targets(student, student.jobs(1)[0])


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_damaged_files_are_refused(student, fraction):
    save(student, "all", part_of(student, list(range(14))))
    path = student.paths.teacher_part("all")
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(
        InputError, match=r"all\.npz: not a file of a teacher's distributions .*; delete it, and repeat"
    ):
        distributions.load(path)


def test_a_run_without_a_teacher_reads_nothing(made):
    assert made.teacher_predictions is None
    assert sampling.training_targets(made, made.jobs(1)[0]).teacher is None
