import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melgpu.errors import InputError
from melgpu.runs import sampling
from melgpu.runs.folder import FORMAT, open_run
from melgpu.runs.job import Job
from tests.helpers.runs import finish_without_scores, mark_stacked, pseudo_label


def test_a_run_round_trips_through_its_folder(made):
    opened = open_run(made.folder)
    assert (opened.recipe, opened.manifest) == (made.recipe, made.manifest)
    assert opened.current_round == 1
    assert made.paths.environment.read_text().count("torch")


def test_another_recipe_is_rejected_with_its_differences(made):
    with pytest.raises(InputError, match="seed: 0, now 5"):
        open_run(made.folder, ["seed=5"])
    assert open_run(made.folder, ["loader.workers=7"]).recipe.loader.workers == 7
    with pytest.raises(InputError, match="there is no such setting"):
        open_run(made.folder, ["loader.wokers=7"])
    with pytest.raises(InputError, match="no run there"):
        open_run(made.folder / "nothing")


def test_jobs_of_a_round_and_their_selection(made):
    assert [job.name for job in made.jobs(2)] == [
        "inception_v3-fold1",
        "resnet50-fold1",
        "inception_v3-fold2",
        "resnet50-fold2",
    ]
    assert made.choose_jobs("resnet50", None) == [Job(1, "resnet50", 0)]
    with pytest.raises(InputError, match="round 1 has only the jobs resnet50-fold0, inception_v3-fold0"):
        made.choose_jobs("xception", None)
    mark_stacked(made, 1, [])
    assert made.current_round == 2
    mark_stacked(made, 2, [])
    assert made.current_round is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(["x.wav", "y.wav"]), st.sampled_from("ab")))
def test_pseudo_labelled_tracks_are_trained_on_and_never_validated(made, selected):
    made = replace(made)  # as opened anew: pseudo labels are read once
    mark_stacked(made, 1, [pseudo_label(name, class_name) for name, class_name in selected.items()])
    tracks, rows = made.round_tracks(2).manifest, made.round_tracks(2).pseudo_rows
    assert {tracks.ids[row]: tracks.labels[row] for row in rows} == selected
    for job in made.jobs(2):
        trained, valid = (
            set(sampling.training_windows(made, job).tracks.tolist()),
            set(made.manifest.fold_rows(job.fold)[1].tolist()),
        )
        assert valid == set(np.flatnonzero(made.manifest.folds == job.fold).tolist())
        assert valid <= set(range(12))  # the training list's; 12 and 13 are the test tracks
        assert trained == set(range(12)) - valid | set(rows.tolist())
        assert set(sampling.prediction_windows(made, made.manifest.fold_rows(job.fold)[1]).tracks.tolist()) == valid
    assert not {12, 13} & set(sampling.training_windows(made, Job(1, "resnet50", 0)).tracks.tolist())


def test_the_variant_without_pseudo_labels_has_folders_of_its_own(made):
    with pytest.raises(InputError, match="the run has no pseudo labels yet"):
        open_run(made.folder, without_pseudo=True)
    mark_stacked(made, 1, [pseudo_label("y.wav", "b")])
    without = open_run(made.folder, without_pseudo=True)
    assert without.round_tracks(2).pseudo_rows.tolist() == []
    assert (without.round_tracks(2).pseudo_digest, made.round_tracks(1).pseudo_digest) == ("none", "none")
    assert without.paths.round_folder(1) == made.paths.round_folder(1)
    for job in made.jobs(2):
        assert without.paths.job_folder(job) != made.paths.job_folder(job)
    finish_without_scores(without, 2)
    assert (without.current_round, made.current_round) == (None, 2)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"python": 3}', '{"python": "3", "packages": []}'])
def test_damaged_json_is_rejected(made, text):
    mark_stacked(made, 1, [])
    scores = made.paths.scores(1)
    for path, load in ((made.paths.environment, lambda: open_run(made.folder)), (scores, made.scores)):
        path.write_text(text)
        with pytest.raises(InputError, match=path.name):
            load(*[1] * (path == scores))


@pytest.mark.parametrize("text", ["x = " + "[" * 100_000, "a" + ".a" * 100_000 + "=1", "x=" + "9" * 5000, "#" * 2**19])
def test_damaged_recipes_are_rejected(made, text):
    made.paths.recipe.write_text(text)
    with pytest.raises(InputError, match=r"recipe\.toml: "):
        open_run(made.folder)
    made.paths.recipe.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"recipe\.toml: .*can't decode"):
        open_run(made.folder)


@pytest.mark.parametrize("run_format", [None, 1, FORMAT - 1, FORMAT + 1])
def test_a_folder_of_another_format_is_rejected_with_one_problem(made, run_format):
    path = made.paths.environment
    environment = json.loads(path.read_text())
    assert environment.pop("format") == FORMAT
    path.write_text(json.dumps(environment | ({"format": run_format} if run_format else {})))
    made.paths.recipe.write_text("[stream]\nbank = 'disk'\n")  # not read
    expected = rf"environment\.json: the run is of format {run_format or 1}, this version .* reads format {FORMAT}"
    with pytest.raises(InputError, match=expected) as caught:
        open_run(made.folder)
    assert len(caught.value.problems) == 1
