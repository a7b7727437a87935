from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from melgpu.audio.content import HASHED_BYTES
from melgpu.data import manifest, manifest_builder
from melgpu.data.manifest import Manifest, Split
from melgpu.errors import InputError
from melgpu.recipe import load_recipe
from melgpu.runs import preflight, run_request, setup
from melgpu.runs.distillation import teacher as teachers
from melgpu.runs.distillation.distributions import Origin
from melgpu.runs.distillation.teacher import Teacher, open_teacher, plan_parts
from melgpu.runs.folder import create_run
from melgpu.runs.run_request import RunRequest, Sources
from tests.conftest import CPU
from tests.helpers import write_audio, write_list
from tests.helpers.runs import mark_stacked, pseudo_label

NO_LABELS = Sources(None, None, None, None)


def finish(run, round_number=1, labels=()):
    """Mark a round as stacked whose networks are empty files."""
    for job in run.jobs(round_number):
        path = run.paths.checkpoint(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(job.name.encode())
    mark_stacked(run, round_number, list(labels))


def folds_in(part) -> set[int]:
    return {job.fold for job in part.jobs}


@pytest.fixture
def finished(made):
    """A run of two finished rounds, of the folds 0 and of 1 and 2; y.wav has a pseudo label in the second."""
    for i, path in enumerate(made.manifest.paths):
        with open(path, "w") as file:
            file.write(str(i))
    finish(made, 1, [pseudo_label("y.wav", "a")])
    finish(made, 2)
    tracks = manifest.with_contents(made.manifest)
    manifest.save(tracks, made.paths.manifest)
    return replace(made, manifest=tracks)


def test_a_teacher_needs_a_finished_round(made, finished):
    teacher = open_teacher(finished.folder)
    assert {job.round for job in teacher.jobs} == {2}
    assert {fold: {job.round for job in jobs} for fold, jobs in teacher.fold_jobs.items()} == {0: {1}, 1: {2}, 2: {2}}
    finished.paths.scores(1).unlink()
    with pytest.raises(InputError, match=r"no round of this run is finished; first python train\.py"):
        open_teacher(finished.folder)


def test_its_digest_changes_with_each_of_its_networks(finished):
    digests = {open_teacher(finished.folder).digest}
    for round_number in (1, 2):
        for job in finished.jobs(round_number):
            finished.paths.checkpoint(job).write_bytes(b"other" + job.name.encode())
            digests.add(open_teacher(finished.folder).digest)
    assert len(digests) == 1 + 2 + 4


def test_each_track_is_predicted_by_networks_that_did_not_train_on_it(finished):
    parts = {part.name: part for part in plan_parts(finished.manifest, open_teacher(finished.folder))}
    assert {name: folds_in(part) for name, part in parts.items()} == {
        "all": {1, 2},
        "fold0": {0},
        "fold1": {1},
        "fold2": {2},
    }
    folds = finished.manifest.folds
    for fold in range(3):
        part = parts[f"fold{fold}"]
        assert part.rows.tolist() == np.flatnonzero(folds == fold).tolist()
        assert set(part.origins) == {Origin.OUT_OF_FOLD}
    test_origins = dict(
        zip((finished.manifest.ids[row] for row in parts["all"].rows), parts["all"].origins, strict=True)
    )
    assert test_origins == {"x.wav": Origin.UNSEEN, "y.wav": Origin.TRAINED}


def test_a_copy_of_a_training_track_is_predicted_out_of_fold(finished, tmp_path):
    """A student may list a file of the teacher's under another name, and in another split."""
    tracks = finished.manifest
    copy = tmp_path / "copy.wav"
    copy.write_text("3")
    splits = (Split.PUBLIC, Split.PUBLIC)
    student = replace(
        tracks,
        ids=("copy.wav", "new.wav"),
        paths=(str(copy), str(tmp_path / "new.wav")),
        labels=("", ""),
        splits=splits,
        folds=np.array([-1, -1]),
        contents=("", ""),
    )
    (tmp_path / "new.wav").write_text("new")
    parts = {part.name: part for part in plan_parts(manifest.with_contents(student), open_teacher(finished.folder))}
    fold = int(tracks.folds[3])
    assert parts[f"fold{fold}"].rows.tolist() == [0]
    assert parts["all"].rows.tolist() == [1]
    assert parts["all"].origins == (Origin.UNSEEN,)


def test_files_that_only_begin_alike_are_different_tracks(finished, tmp_path):
    """The content in a manifest is of the size and the beginning alone."""
    beginning = b"\0" * HASHED_BYTES
    trained = Path(finished.manifest.paths[3])
    trained.write_bytes(beginning + b"1")
    tracks = manifest.with_contents(finished.manifest)
    manifest.save(tracks, finished.folder / "manifest.csv")
    files = {"same.wav": b"1", "other.wav": b"2"}
    for name, ending in files.items():
        (tmp_path / name).write_bytes(beginning + ending)
    student = manifest.with_contents(
        Manifest(
            tuple(files),
            tuple(str(tmp_path / name) for name in files),
            ("", ""),
            (Split.PUBLIC, Split.PUBLIC),
            np.array([-1, -1]),
        )
    )
    assert set(student.contents) == {tracks.contents[3]}
    parts = {part.name: part.rows.tolist() for part in plan_parts(student, open_teacher(finished.folder))}
    assert parts == {f"fold{tracks.folds[3]}": [0], "all": [1]}
    trained.unlink()  # nothing to compare with: a copy must not be predicted by networks that trained on it
    parts = {part.name: part.rows.tolist() for part in plan_parts(student, open_teacher(finished.folder))}
    assert parts == {f"fold{tracks.folds[3]}": [0, 1]}


def test_a_file_in_two_folds_has_no_network_that_did_not_train_on_it(finished):
    tracks = finished.manifest
    first, other = (int(np.flatnonzero(tracks.folds == fold)[0]) for fold in (0, 1))
    with open(tracks.paths[other], "w") as file:
        file.write(str(first))
    tracks = manifest.with_contents(tracks)
    manifest.save(tracks, finished.folder / "manifest.csv")
    parts = plan_parts(tracks, open_teacher(finished.folder))
    origins = {row: origin for part in parts for row, origin in zip(part.rows.tolist(), part.origins, strict=True)}
    assert origins[first] == origins[other] == Origin.TRAINED


def test_a_fold_without_networks_is_predicted_by_all_of_them(finished):
    teacher = open_teacher(finished.folder)
    few = Teacher(teacher.run, teacher.fold_jobs[1], {1: teacher.fold_jobs[1]}, teacher.digest)
    parts = {part.name: part for part in plan_parts(finished.manifest, few)}
    assert parts.keys() == {"all", "fold1"}
    origins = dict(zip(parts["all"].rows.tolist(), parts["all"].origins, strict=True))
    assert {origins[row] for row in np.flatnonzero(np.isin(finished.manifest.folds, (0, 2))).tolist()} == {
        Origin.TRAINED
    }


def test_a_student_inherits_audio_windows_folds_and_pictures(small_recipe):
    student = load_recipe(["student"], ["mel.image_size=96"], teacher=small_recipe)
    assert student.audio == small_recipe.audio
    assert student.folds == small_recipe.folds
    assert student.windows == small_recipe.windows.model_copy(update={"dense_classes": ()})
    assert student.mel == small_recipe.mel.model_copy(update={"n_mels": 128, "image_size": 96})
    assert student.optim.lr == 5e-4  # nothing else
    teachers.check_student(student, small_recipe)
    other = load_recipe(["student"], ["audio.track_s=30.0", "windows.window_s=5.0"], teacher=small_recipe)
    with pytest.raises(InputError) as caught:
        teachers.check_student(other, small_recipe)
    assert caught.value.problems == [
        "audio.track_s 30.0: a student has its teacher's, 18.0",
        "windows.window_s 5.0: a student has its teacher's, 6.0",
    ]


def request(finished, folder, recipes=("student", "scratch"), overrides=(), teacher=True) -> RunRequest:
    opened = open_teacher(finished.folder) if teacher else None
    return RunRequest(folder, list(recipes), list(overrides), False, opened)


def test_a_students_recipe_names_its_teacher(finished, tmp_path):
    asked = request(finished, tmp_path / "student")
    recipe = run_request.read_recipe(asked, on_cpu=True)
    assert recipe.distil.teacher == asked.teacher.digest
    assert run_request.read_recipe(
        replace(asked, recipes=[], overrides=["backbone.pretrained=false"]), on_cpu=True
    ).distil
    with pytest.raises(InputError, match="--teacher needs a recipe with the table distil: --recipe student"):
        run_request.read_recipe(request(finished, tmp_path, ["quick", "scratch"]), on_cpu=True)
    with pytest.raises(InputError, match="a recipe with the table distil needs --teacher RUN"):
        run_request.read_recipe(request(finished, tmp_path, teacher=False), on_cpu=True)


def test_a_student_is_reopened_with_its_own_teacher_only(finished, tmp_path):
    asked = request(finished, tmp_path / "student")
    create_run(asked.folder, run_request.read_recipe(asked, on_cpu=True), finished.manifest, CPU)
    for again in (asked, request(finished, asked.folder, [], teacher=False), replace(asked, recipes=[])):
        assert setup.reopen(again).recipe == run_request.read_recipe(asked, on_cpu=True)
    with pytest.raises(InputError, match="leave --recipe out, or give its --teacher, too"):
        setup.reopen(request(finished, asked.folder, teacher=False))
    with pytest.raises(InputError, match="has no teacher: choose another --run"):
        setup.reopen(replace(asked, folder=finished.folder))
    finished.paths.checkpoint(finished.jobs(2)[0]).write_bytes(b"trained again")
    with pytest.raises(InputError, match=r"has another teacher, [0-9a-f]{16}, than [0-9a-f]{16}"):
        setup.reopen(request(finished, asked.folder))


def test_a_student_without_lists_has_the_teachers_tracks_and_folds(finished):
    folds = finished.manifest.folds
    folds[2:4] = 3  # of a class that is too small to be divided, with folds.small_classes=train
    folds[5] = -1  # without usable audio
    manifest.save(finished.manifest, finished.folder / "manifest.csv")
    lists = teachers.source_lists(open_teacher(finished.folder), num_folds=3)
    built = manifest_builder.build(lists, 3, seed=99, unusable={finished.manifest.paths[7]})
    assert built.ids == (*finished.manifest.ids[:5], *finished.manifest.ids[6:])
    expected = folds.tolist()
    expected[7] = -1
    del expected[5]
    assert built.folds.tolist() == expected


def test_the_teachers_folds_need_not_be_those_that_could_be_drawn(finished):
    """A list may have named them, of a class with fewer tracks than folds."""
    labels = ["c" if row in (0, 1) else label for row, label in enumerate(finished.manifest.labels)]
    folds = np.array([0, 1, *[row % 3 for row in range(10)], -1, -1])
    tracks = replace(finished.manifest, labels=tuple(labels), folds=folds)
    manifest.save(tracks, finished.folder / "manifest.csv")
    lists = teachers.source_lists(open_teacher(finished.folder), num_folds=3)
    assert manifest_builder.build(lists, 3, seed=8).folds.tolist() == folds.tolist()


def test_a_student_of_the_teachers_tracks_has_as_many_folds(finished, tmp_path):
    asked = request(finished, tmp_path / "student", overrides=["folds.num_folds=2"])
    with pytest.raises(InputError, match=r"folds\.num_folds 2: a student without --labels has its teacher's folds"):
        setup.create(asked, NO_LABELS, CPU)
    assert not asked.folder.exists()


def test_other_classes_than_the_teachers_are_refused_before_any_audio_is_decoded(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "check_files", lambda *arguments: pytest.fail("audio was decoded"))
    rows = [
        (path, "polka" if label == "b" else label)
        for path, label in zip(finished.manifest.paths[:12], finished.manifest.labels[:12], strict=True)
    ]
    sources = replace(NO_LABELS, labels=write_list(tmp_path / "other.csv", rows))
    with pytest.raises(InputError) as caught:
        setup.create(request(finished, tmp_path / "student"), sources, CPU)
    assert caught.value.problems == [
        f"classes that the teacher {finished.folder} does not know: polka; leave them out",
        f"classes of the teacher {finished.folder} without training tracks: b; add some",
    ]


def test_what_a_student_of_the_teachers_tracks_would_not_use_is_refused(finished, tmp_path):
    asked = request(finished, tmp_path / "student")
    with pytest.raises(InputError, match=r"first move those, python train\.py --run \S+ --data \S+"):
        setup.create(asked, replace(NO_LABELS, data=str(tmp_path)), CPU)
    with pytest.raises(InputError, match="--labels-from-tags needs --labels"):
        setup.create(asked, replace(NO_LABELS, labels_from_tags="genre"), CPU)
    assert not asked.folder.exists()


def test_a_new_students_tracks_are_checked(finished, tmp_path, capsys):
    asked = request(finished, tmp_path / "student", overrides=["loader.workers=0"])
    write_audio(Path(finished.manifest.paths[0]), 20, 11_025)
    assert setup.check_dataset(asked, NO_LABELS, CPU) == len(finished.manifest) - 1  # all others are no audio
    assert "labels: a: 6, b: 6" in capsys.readouterr().out
    create_run(asked.folder, run_request.read_recipe(asked, on_cpu=True), finished.manifest, CPU)
    assert setup.check_dataset(asked, NO_LABELS, CPU) == len(finished.manifest) - 1
