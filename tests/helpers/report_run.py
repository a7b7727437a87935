"""The folder of a small run after both rounds, with everything that its report shows; nothing was trained.

Real audio, one file of it too short; names that a report must escape; random probabilities of networks and stackers.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch

from melgpu import files
from melgpu.audio import quarantine
from melgpu.data import manifest_builder
from melgpu.data.lists.sources import SourceList
from melgpu.data.manifest import Split
from melgpu.recipe import load_recipe
from melgpu.runs import sampling
from melgpu.runs.folder import create_run
from melgpu.runs.formats import predictions, pseudo_labels, timings
from melgpu.runs.job import Job
from melgpu.runs.run import Run
from melgpu.stacking import evaluation
from melgpu.training import checkpointing
from tests.helpers import SMALL, write_audio

CLASSES = ("<script>alert('x')</script>", 'a "b" & 🎵', "polka-" * 20)
SHORT = "train1.wav"
OVERRIDES = [*SMALL, "loader.workers=0", "loader.pcm_cache='off'", "windows.dense_classes=[]"]


def make(
    folder: Path, classes: tuple[str, ...] = CLASSES, per_class: int = 4, labelled: bool = True, audio: bool = True
) -> Run:
    """A run in `folder`/run of that many tracks of each class; without `labelled` test labels are unknown."""
    run = create(folder, classes, per_class, labelled, audio)
    evaluated = stack(run, 1)
    public = np.flatnonzero(np.array(evaluated.splits) == "public")
    votes = evaluated.probs[:2, public].argmax(2)
    spec = run.recipe.pseudo.model_copy(update={"threshold": 0.5})
    ids = [evaluated.ids[row] for row in public]
    selected = pseudo_labels.select(ids, evaluated.final_probs[public], votes, run.class_names, spec)
    pseudo_labels.save(selected, run.paths.pseudo_labels(1), 1, run.recipe.digest())
    stack(run, 2)
    stack(dataclasses.replace(run, without_pseudo=True), 2)
    timings.record(run.paths.timings, 1, "predict", 7.5, 150, "windows")
    audio_error = quarantine.AudioError("<b>.mp3", "decoding failed after 3.0 s", 3.0)
    quarantine.record_errors(run.paths.quarantine, [audio_error])
    return run


def create(folder: Path, classes: tuple[str, ...], per_class: int, labelled: bool, audio: bool) -> Run:
    """A new run: its tracks only."""
    sources, seed = {}, 0
    counts = {Split.TRAIN: per_class, Split.PUBLIC: per_class // 2, Split.PRIVATE: per_class // 2}
    for split, per_split_class in counts.items():
        ids = [f"{split}{i}.wav" for i in range(per_split_class * len(classes))]
        labels = [classes[i % len(classes)] if labelled or split is Split.TRAIN else "" for i in range(len(ids))]
        sources[split] = SourceList(ids, [str(folder / name) for name in ids], labels, [""] * len(ids), [""] * len(ids))
        for name in ids:
            seed += 1
            if audio:
                write_audio(folder / name, 7.0 if name == SHORT else 19.0, 11_025, seed=seed)
    recipe = load_recipe(["demo"], OVERRIDES)
    made = create_run(folder / "run", recipe, manifest_builder.build(sources, 3, 8), torch.device("cpu"))
    path = made.paths.environment
    path.write_text(json.dumps({**json.loads(path.read_text()), "device_name": "a 'device' & more"}))
    return made


def stack(run: Run, round_number: int) -> evaluation.RoundEvaluation:
    """Write logs, predictions and the evaluation of one round."""
    rng = np.random.default_rng([round_number, run.without_pseudo])
    predicted = {job: predict(run, job, rng) for job in run.jobs(round_number)}
    for job in predicted:
        write_log(run, job, rng)
    evaluated = evaluate(run, round_number, predicted, rng)
    evaluation.save(evaluated, run.paths.evaluation(round_number))
    run.finish_round(round_number, evaluated.round_scores())
    return evaluated


def random_probs(labels: np.ndarray, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Probabilities (N, C) that are correct more often than by chance."""
    logits = rng.normal(0, 1, (len(labels), num_classes)) + 0.7 * np.eye(num_classes)[labels]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def predict(run: Run, job: Job, rng: np.random.Generator) -> predictions.Predictions:
    index = sampling.prediction_windows(run, np.arange(len(run.manifest)))
    labels = run.manifest.class_indices(run.class_names)[index.tracks]
    unusable, counts = np.zeros(len(run.manifest), bool), np.bincount(index.tracks)
    probs = random_probs(labels, len(run.class_names), rng).astype(np.float32)
    splits, names = run.manifest.fold_splits(job.fold), tuple(run.class_names)
    predicted = predictions.Predictions(
        run.manifest.ids, splits, unusable, counts, probs, names, run.job_provenance(job)
    )
    predictions.save(predicted, run.paths.predictions(job))
    return predicted


def write_log(run: Run, job: Job, rng: np.random.Generator, epochs: int = 3) -> None:
    columns = checkpointing.LOG_COLUMNS
    rows = [(epoch, 1 / epoch, *rng.random(len(columns) - 2).round(3)) for epoch in range(1, epochs + 1)]
    files.write_text(
        run.paths.training_log(job), "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)])
    )


def evaluate(
    run: Run, round_number: int, predicted: dict[Job, predictions.Predictions], rng: np.random.Generator
) -> evaluation.RoundEvaluation:
    spec, folds, splits = run.round_spec(round_number), run.manifest.folds, run.manifest.splits
    rows = np.flatnonzero(np.isin(folds, spec.folds) | (np.array(splits) != "train"))
    labels = run.manifest.class_indices(run.class_names)[rows]
    networks = [
        [
            np.mean(
                [predicted[Job(round_number, name, f)].track_probs[row] for f in _network_folds(spec, folds[row])],
                axis=0,
            )
            for row in rows
        ]
        for name in spec.backbones
    ]
    stackers = [random_probs(labels, len(run.class_names), rng) for _ in spec.blend]
    blends = {"blend": np.average(stackers, axis=0, weights=list(spec.blend.values()))}
    if len(stackers) > 1:
        blends["fitted blend"] = np.mean(stackers, axis=0)
    return evaluation.RoundEvaluation(
        predictors=(*spec.backbones, "mean", *spec.blend, *blends),
        ids=tuple(run.manifest.ids[row] for row in rows),
        splits=tuple(Split.VALID if splits[row] is Split.TRAIN else splits[row] for row in rows),
        folds=folds[rows],
        labels=labels,
        pseudo_labelled=np.isin(rows, run.round_tracks(round_number).pseudo_rows),
        probs=np.stack([*networks, np.mean(networks, axis=0), *stackers, *blends.values()]).astype(np.float32),
        class_names=tuple(run.class_names),
        metadata=evaluation.EvaluationMetadata(
            provenance=run.stack_provenance(round_number),
            settings=run.stack_settings(round_number),
            final_predictor="blend",
            selection=None,
            fitted_weights=dict.fromkeys(spec.blend, 1 / len(spec.blend)),
        ),
    )


def _network_folds(spec, fold: int) -> tuple[int, ...]:
    """The folds whose networks predict a track of this fold; all for a test track."""
    return spec.folds if fold < 0 else (fold,)
