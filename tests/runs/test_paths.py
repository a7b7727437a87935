from pathlib import Path

from melgpu.data.manifest import Split
from melgpu.runs.job import Job
from melgpu.runs.paths import RunPaths

JOB = Job(2, "densenet201", 3)


def test_the_names_of_files_are_those_of_the_folders_format():
    """Other names need another `FORMAT` in runs/folder.py, as runs of before would not be found."""
    paths = RunPaths(Path("run"))
    expected = {
        paths.recipe: "recipe.toml",
        paths.environment: "environment.json",
        paths.manifest: "manifest.csv",
        paths.stack_settings: "stack_settings.json",
        paths.quarantine: "quarantine.csv",
        paths.duplicates: "duplicates.csv",
        paths.timings: "timings.csv",
        paths.report: "report.html",
        paths.pcm_cache: "pcm_cache",
        paths.submission(Split.PUBLIC): "submission.csv",
        paths.submission(Split.PRIVATE): "submission-private.csv",
        paths.teacher_part("all"): "teacher/all.npz",
        paths.pseudo_labels(1): "round1/pseudo.csv",
        paths.checkpoint(JOB): "round2/densenet201/fold3/best.safetensors",
        paths.training_state(JOB): "round2/densenet201/fold3/last.pt",
        paths.training_log(JOB): "round2/densenet201/fold3/log.csv",
        paths.job_scores(JOB): "round2/densenet201/fold3/scores.json",
        paths.predictions(JOB): "round2/predictions/densenet201-fold3.npz",
        paths.stack(2, (0,)): "round2/stack/fold0.safetensors",
        paths.stack(2, (1, 2)): "round2/stack/fold1-2.safetensors",
        paths.evaluation(2): "round2/stack/evaluation.npz",
        paths.scores(2): "round2/stack/scores.json",
    }
    assert all(path == Path("run", name) for path, name in expected.items())


def test_variants_and_changed_stacks_are_in_folders_of_their_own():
    paths = RunPaths(Path("run"), without_pseudo=True, changed_stacks={2: "1f3a"})
    assert paths.scores(1) == Path("run/round1/stack/scores.json")  # which both variants share
    assert paths.scores(2) == Path("run/round2-without-pseudo/stack-1f3a/scores.json")
    assert paths.checkpoint(JOB) == Path("run/round2-without-pseudo/densenet201/fold3/best.safetensors")


def test_networks_that_are_trained_again_have_another_resume_log(tmp_path):
    paths = RunPaths(tmp_path)
    first, again, second = paths.resume_log(1, 0, ["a"]), paths.resume_log(1, 0, ["b"]), paths.resume_log(1, 1, ["a"])
    assert len({first, again, second}) == 3
    assert paths.resume_logs(1) == []
    first.parent.mkdir(parents=True)
    first.touch()
    assert paths.resume_logs(1) == [first]


def test_stacks_of_all_settings_are_found(tmp_path):
    paths = RunPaths(tmp_path, changed_stacks={1: "1f3a"})
    unchanged = RunPaths(tmp_path)
    for folder in (paths.stack_folder(1), unchanged.stack_folder(1), unchanged.predictions_folder(1)):
        folder.mkdir(parents=True)
    assert set(paths.stack_folders(1)) == {paths.stack_folder(1), unchanged.stack_folder(1)}
