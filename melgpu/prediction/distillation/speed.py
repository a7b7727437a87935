"""How many tracks a second a run predicts on this machine, from files to answers: of a student and of its teacher."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from melgpu import console, distributed
from melgpu.console import Tracker
from melgpu.data.loader import WindowLoader
from melgpu.data.windows import WindowIndex, to_samples
from melgpu.errors import is_out_of_memory
from melgpu.prediction.ensemble import load_ensemble
from melgpu.prediction.predictor import TrackPredictor, recipe_for_new_music
from melgpu.recipe import Recipe
from melgpu.runs.distillation.distributions import predicted_rows
from melgpu.runs.formats import timings
from melgpu.runs.formats.timings import STUDENT_SPEED, TEACHER_SPEED
from melgpu.runs.run import Run

NUM_TRACKS = 8  # a few seconds of a student; the first one warms up, and is not measured


def measure_student(run: Run, device: torch.device) -> None:
    """Measure a student by the same tracks as its teacher, and record it in the student's timings."""
    _measure(run, run, STUDENT_SPEED, device)


def measure_teacher(run: Run, teacher: Run, device: torch.device) -> None:
    """Measure a student's teacher, all networks of its latest round, and record it in the student's timings.

    Not where they do not fit into memory together, as new music needs them; that is said.
    """
    try:
        _measure(run, teacher, TEACHER_SPEED, device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        console.say(
            f"The teacher's speed is not measured: its networks do not fit into the memory of {device} together"
        )


def _measure(run: Run, measured: Run, stage: str, device: torch.device) -> None:
    """Predict some of a student's tracks as `predict.py` does; nothing where that was done. By the main process."""
    if not distributed.is_main_process() or timings.find(run.paths.timings, stage):
        return
    ensemble = load_ensemble(measured)
    recipe = recipe_for_new_music(ensemble, run.recipe)  # with the same workers and batches
    predictor = TrackPredictor(ensemble, recipe, device)
    rows = predicted_rows(run.manifest)[: NUM_TRACKS + 1].tolist()
    paths = [run.manifest.paths[row] for row in rows]
    with (
        console.progress(stage, len(paths) * predictor.windows_per_track, "windows") as tracker,
        WindowLoader(paths[1:], recipe.audio, recipe.loader, device) as loader,
    ):
        _start_processes(loader, recipe)
        _predict(predictor, loader, paths[:1], tracker)
        with timings.measure(run.paths.timings, 1, stage, len(paths) - 1, "tracks"):
            _predict(predictor, loader, paths[1:], tracker)


def _start_processes(loader: WindowLoader, recipe: Recipe) -> None:
    """Decode all files of a loader, since its processes start one by one, as many as there are files at a time."""
    tracks = np.arange(len(loader.paths), dtype=np.int32)
    window_samples = to_samples(recipe.windows.window_s, recipe.audio.sample_rate)
    index = WindowIndex(tracks, np.zeros_like(tracks))
    for _ in loader.batches(index, window_samples, 1):
        pass


def _predict(predictor: TrackPredictor, loader: WindowLoader, paths: list[str], tracker: Tracker) -> None:
    loader.set_paths(paths)
    with tempfile.TemporaryDirectory() as folder:
        predictor.predict(loader, Path(folder) / "log", tracker, pad=True)
