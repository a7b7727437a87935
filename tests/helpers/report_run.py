"""A small run as its folder stands after both rounds, with everything that its page shows; nothing was trained.

Real audio, one file of it too short; names that a page must escape; made-up probabilities of networks and stackers.
"""

import dataclasses
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.audio import quarantine
from melgpu.data import manifest
from melgpu.data.sources import SourceList
from melgpu.recipe import load_recipe
from melgpu.runs import predictions, pseudo_labels, run, sampling, timings
from melgpu.runs.folder import create_run
from melgpu.runs.run import Job, Run
from melgpu.stacking import evaluation
from melgpu.training import checkpointing
from tests.helpers import SMALL, write_audio

CLASSES = ("<script>alert('x')</script>", 'a "b" & 🎵', "polka-" * 20)
SHORT = "train1.wav"
SETTINGS = [*SMALL, "loader.workers=0", "loader.pcm_cache='off'", "windows.dense_classes=[]"]


def make(
    folder: Path, classes: tuple[str, ...] = CLASSES, per_class: int = 4, labelled: bool = True, audio: bool = True
) -> Run:
    """A run in `folder`/run of that many tracks of each class; without `labelled` test labels are unknown."""
    made = start(folder, classes, per_class, labelled, audio)
    told = stack(made, 1)
    public = np.flatnonzero(np.array(told.splits) == "public")
    votes = told.probs[:2, public].argmax(2)
    spec = made.recipe.pseudo.model_copy(update={"threshold": 0.5})
    ids = [told.ids[row] for row in public]
    chosen = pseudo_labels.select(ids, told.final_probs[public], votes, made.class_names, spec)
    pseudo_labels.save(chosen, made.pseudo_path(1), 1, made.recipe.digest())
    stack(made, 2)
    stack(dataclasses.replace(made, without_pseudo=True), 2)
    timings.record(made.timings_path, 1, "predict", 7.5, 150, "windows")
    quarantine.record_errors(made.quarantine_path, [quarantine.AudioError("<b>.mp3", "broken after 3.0 s", 3.0)])
    return made


def start(folder: Path, classes: tuple[str, ...], per_class: int, labelled: bool, audio: bool) -> Run:
    """Nothing but its tracks."""
    listings, number = {}, 0
    for split, share in (("train", per_class), ("public", per_class // 2), ("private", per_class // 2)):
        ids = [f"{split}{i}.wav" for i in range(share * len(classes))]
        labels = [classes[i % len(classes)] if labelled or split == "train" else "" for i in range(len(ids))]
        listings[split] = SourceList(
            ids, [str(folder / name) for name in ids], labels, [""] * len(ids), [""] * len(ids)
        )
        for name in ids:
            number += 1
            if audio:
                write_audio(folder / name, 7.0 if name == SHORT else 19.0, 11_025, seed=number)
    settings = load_recipe(["demo"], SETTINGS)
    return create_run(folder / "run", settings, manifest.build(listings, 3, 8), "a 'device' & more")


def stack(made: Run, number: int) -> evaluation.RoundEvaluation:
    """Logs, predictions and what was judged of one round."""
    rng = np.random.default_rng([number, made.without_pseudo])
    said = {job: predict(made, job, rng) for job in made.jobs(number)}
    for job in said:
        log(made, job, rng)
    told = judge(made, number, said, rng)
    evaluation.save(told, made.evaluation_path(number))
    made.finish_round(number, told.scores())
    return told


def unsure(labels: np.ndarray, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Probabilities (N, C) that are right more often than not."""
    logits = rng.normal(0, 1, (len(labels), num_classes)) + 0.7 * np.eye(num_classes)[labels]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def predict(made: Run, job: Job, rng: np.random.Generator) -> predictions.Predictions:
    index = sampling.prediction_windows(made, np.arange(len(made.manifest)))
    labels = run.class_indices(made.manifest, made.class_names)[index.tracks]
    unusable, counts = np.zeros(len(made.manifest), bool), np.bincount(index.tracks)
    probs = unsure(labels, len(made.class_names), rng).astype(np.float32)
    source = {"backbone": job.backbone, "fold": job.fold, "round": job.round, "recipe_digest": made.recipe.digest()}
    splits, names = tuple(made.round_splits(job.fold)), tuple(made.class_names)
    said = predictions.Predictions(made.manifest.ids, splits, unusable, counts, probs, names, source)
    predictions.save(said, made.predictions_path(job))
    return said


def log(made: Run, job: Job, rng: np.random.Generator, epochs: int = 3) -> None:
    columns = checkpointing.LOG_COLUMNS
    rows = [(epoch, 1 / epoch, *rng.random(len(columns) - 2).round(3)) for epoch in range(1, epochs + 1)]
    files.write_text(
        made.job_folder(job) / "log.csv", "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)])
    )


def judge(
    made: Run, number: int, said: dict[Job, predictions.Predictions], rng: np.random.Generator
) -> evaluation.RoundEvaluation:
    spec, folds, splits = made.spec(number), made.manifest.folds, np.array(made.manifest.splits)
    rows = np.flatnonzero(np.isin(folds, spec.folds) | (splits != "train"))
    labels = run.class_indices(made.manifest, made.class_names)[rows]
    networks = [
        [
            np.mean([said[Job(number, name, f)].track_probs[row] for f in _folds(spec, folds[row])], axis=0)
            for row in rows
        ]
        for name in spec.backbones
    ]
    stackers = [unsure(labels, len(made.class_names), rng) for _ in spec.blend]
    blends = {"blend": np.average(stackers, axis=0, weights=list(spec.blend.values()))}
    if len(stackers) > 1:
        blends["fitted blend"] = np.mean(stackers, axis=0)
    return evaluation.RoundEvaluation(
        predictors=(*spec.backbones, "mean", *spec.blend, *blends),
        ids=tuple(made.manifest.ids[row] for row in rows),
        splits=tuple("validation" if splits[row] == "train" else str(splits[row]) for row in rows),
        folds=folds[rows],
        labels=labels,
        pseudo_labelled=np.isin(rows, made.round_manifest(number)[1]),
        probs=np.stack([*networks, np.mean(networks, axis=0), *stackers, *blends.values()]).astype(np.float32),
        class_names=tuple(made.class_names),
        provenance={
            "round": number,
            "recipe_digest": made.recipe.digest(),
            "pseudo_digest": made.pseudo_digest(number),
            "final_predictor": "blend",
            "weights": dict(spec.blend),
        },
    )


def _folds(spec, own: int) -> tuple[int, ...]:
    return spec.folds if own < 0 else (own,)
