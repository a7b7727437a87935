from pathlib import Path

import pytest

from melgpu import manifest, plan, pseudo, run
from melgpu.errors import InputError
from melgpu.listing import Listing
from melgpu.run import Job


@pytest.fixture
def made(tmp_path, small) -> run.Run:
    labels = ["a", "b"] * 6
    train = Listing(
        [f"{i}.wav" for i in range(12)], [str(tmp_path / f"{i}.wav") for i in range(12)], labels, [""] * 12, [""] * 12
    )
    test_paths = [str(tmp_path / "x.wav"), str(tmp_path / "y.wav")]
    tests = Listing(["x.wav", "y.wav"], test_paths, ["", ""], ["", ""], ["", ""])
    for path in (*train.paths, *tests.paths):
        Path(path).touch()
    return run.create(tmp_path / "run", small, manifest.build({"train": train, "public": tests}, 3, 8), "cpu")


def stack_round(made: run.Run, number: int, labels: list[pseudo.PseudoLabel]) -> None:
    pseudo.save(labels, made.pseudo_path(number), number, made.recipe.digest())
    made.finish_round(number, {})


def test_a_run_survives_its_folder(made):
    again = run.open_run(made.folder)
    assert (again.recipe, again.manifest) == (made.recipe, made.manifest)
    assert again.current_round == 1
    assert (made.folder / "environment.json").read_text().count("torch")


def test_another_recipe_is_refused_by_its_settings(made):
    with pytest.raises(InputError, match="seed: 0, now 5"):
        run.open_run(made.folder, ["seed=5"])
    assert run.open_run(made.folder, ["stream.workers=7"]).recipe.stream.workers == 7
    with pytest.raises(InputError, match="there is no such setting"):
        run.open_run(made.folder, ["stream.wokers=7"])
    with pytest.raises(InputError, match="no run there"):
        run.open_run(made.folder / "nothing")


def test_jobs_of_the_round_and_parts_of_it(made):
    assert [job.name for job in made.jobs(2)] == [
        "inception_v3-fold1",
        "resnet50-fold1",
        "inception_v3-fold2",
        "resnet50-fold2",
    ]
    assert made.choose_jobs("resnet50", None) == [Job(1, "resnet50", 0)]
    with pytest.raises(InputError, match="round 1 has only the jobs resnet50-fold0, inception_v3-fold0"):
        made.choose_jobs("xception", None)
    stack_round(made, 1, [])
    assert made.current_round == 2
    stack_round(made, 2, [])
    assert made.current_round is None


def test_a_fold_holds_its_own_tracks_out(made):
    for fold in range(3):
        train, valid = made.fold_rows(fold)
        assert not set(train) & set(valid)
        assert sorted([*train, *valid]) == list(range(12))
        assert made.round_splits(fold).count("valid") == len(valid)


def test_pseudo_tracks_train_and_never_validate(made):
    stack_round(made, 1, [pseudo.PseudoLabel("y.wav", "b", 0.9)])
    tracks, rows = made.labelled(2)
    assert rows.tolist() == [13]
    assert tracks.labels[13] == "b"
    for job in made.jobs(2):
        assert 13 in plan.training_order(made, job).tracks
        assert 12 not in plan.training_order(made, job).tracks
        valid = made.fold_rows(job.fold)[1]
        assert 13 not in valid
        assert not set(plan.training_order(made, job).tracks) & set(valid)
    assert 13 not in plan.training_order(made, Job(1, "resnet50", 0)).tracks


def test_pseudo_labels_of_strangers_are_refused(made):
    stack_round(made, 1, [pseudo.PseudoLabel("3.wav", "b", 0.9)])
    with pytest.raises(InputError, match=r"3\.wav is no public test track"):
        made.labelled(2)


def test_pseudo_labels_are_classes(made):
    stack_round(made, 1, [pseudo.PseudoLabel("y.wav", "c", 0.9)])
    with pytest.raises(InputError, match=r"pseudo\.csv: 'c' is no class"):
        made.labelled(2)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"python": 3}', '{"python": "3", "packages": []}'])
def test_damaged_json_is_refused(made, text):
    made.finish_round(1, {"mean": {"validation": [0.5, 7]}})
    assert made.scores(1) == {"mean": {"validation": [0.5, 7]}}
    scores = made.stack_folder(1) / "scores.json"
    for path, load in ((made.folder / "environment.json", lambda: run.open_run(made.folder)), (scores, made.scores)):
        path.write_text(text)
        with pytest.raises(InputError, match=path.name):
            load(*[1] * (path == scores))


@pytest.mark.parametrize("text", ["x = " + "[" * 100_000, "a" + ".a" * 100_000 + "=1", "x=" + "9" * 5000, "#" * 2**19])
def test_damaged_recipes_are_refused(made, text):
    (made.folder / "recipe.toml").write_text(text)
    with pytest.raises(InputError, match=r"recipe\.toml: "):
        run.open_run(made.folder)
    (made.folder / "recipe.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"recipe\.toml: .*can't decode"):
        run.open_run(made.folder)


def test_class_numbers(made):
    numbers = run.class_numbers(made.manifest, made.class_names)
    assert numbers[:4].tolist() == [0, 1, 0, 1]
    assert numbers[12:].tolist() == [-1, -1]


def test_tracks_that_cannot_be_read_are_in_no_fold(made):
    made.manifest.folds[[0, 5]] = -1
    for fold in range(3):
        train, valid = made.fold_rows(fold)
        assert not {0, 5} & {*train.tolist(), *valid.tolist()}
    assert made.prior.sum() == pytest.approx(1)
