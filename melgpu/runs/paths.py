"""A run's folder to the paths of its files, which have their names here and nowhere else.

recipe.toml environment.json manifest.csv
stack_settings.json                  those of the last round's stack, if they changed after training
round1/densenet201/fold0/            best.safetensors, last.pt (until finished), log.csv, scores.json, .lock
round1/predictions/                  densenet201-fold0.npz; KEY-process0.resume_log (until finished)
round1/stack/                        fold0.safetensors, evaluation.npz, scores.json; stack-DIGEST/ of changed settings
round1/pseudo.csv
round2-without-pseudo/               the same round without pseudo labels, for a comparison
submission.csv submission-private.csv
timings.csv                          wall time of each stage
report.html
teacher/                             a student's: its teacher's distributions, fold0.npz all.npz; resume logs as above
quarantine.csv                       files with an audio error, if any
duplicates.csv                       pairs of files with the same recording
pcm_cache/                           decoded tracks, if there is a PCM cache
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from melgpu.data.manifest import Split
from melgpu.runs.job import Job


@dataclass(frozen=True)
class RunPaths:
    """The paths in a run's folder.

    without_pseudo : selects the variant of its rounds without pseudo labels
    changed_stacks : the digests of the recipes by which rounds are stacked, where they are not the run's own
    """

    folder: Path
    without_pseudo: bool = False
    changed_stacks: Mapping[int, str] = field(default_factory=dict)

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.toml"

    @property
    def environment(self) -> Path:
        return self.folder / "environment.json"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.csv"

    @property
    def stack_settings(self) -> Path:
        return self.folder / "stack_settings.json"

    @property
    def quarantine(self) -> Path:
        return self.folder / "quarantine.csv"

    @property
    def duplicates(self) -> Path:
        return self.folder / "duplicates.csv"

    @property
    def pcm_cache(self) -> Path:
        return self.folder / "pcm_cache"

    @property
    def timings(self) -> Path:
        return self.folder / "timings.csv"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def submission(self, split: Split) -> Path:
        """The submission of a test set."""
        return self.folder / {Split.PUBLIC: "submission.csv", Split.PRIVATE: "submission-private.csv"}[split]

    @property
    def teacher_folder(self) -> Path:
        return self.folder / "teacher"

    def teacher_part(self, name: str) -> Path:
        """The distributions of those of a teacher's networks that predict the same tracks."""
        return self.teacher_folder / f"{name}.npz"

    def teacher_resume_log(self, name: str, rank: int, digests: Sequence[str]) -> Path:
        """The resume log of one process for a part, by the networks with these checkpoint digests."""
        return self.teacher_folder / f"{name}-{_networks_key(digests)}-process{rank}.resume_log"

    def teacher_resume_logs(self, name: str = "*") -> list[Path]:
        """The resume logs of one part, or of all."""
        return list(self.teacher_folder.glob(f"{name}-*.resume_log"))

    def round_folder(self, round_number: int) -> Path:
        """The folder of a round; the first round has no pseudo labels, and both variants share it."""
        suffix = "-without-pseudo" if self.without_pseudo and round_number > 1 else ""
        return self.folder / f"round{round_number}{suffix}"

    def pseudo_labels(self, round_number: int) -> Path:
        return self.round_folder(round_number) / "pseudo.csv"

    def job_folder(self, job: Job) -> Path:
        return self.round_folder(job.round) / job.backbone / f"fold{job.fold}"

    def job_lock(self, job: Job) -> Path:
        return self.job_folder(job) / ".lock"

    def checkpoint(self, job: Job) -> Path:
        return self.job_folder(job) / "best.safetensors"

    def training_state(self, job: Job) -> Path:
        return self.job_folder(job) / "last.pt"

    def training_log(self, job: Job) -> Path:
        return self.job_folder(job) / "log.csv"

    def tensorboard(self, job: Job) -> Path:
        return self.job_folder(job) / "tensorboard"

    def job_scores(self, job: Job) -> Path:
        """The last file of a training: the record of its best epoch."""
        return self.job_folder(job) / "scores.json"

    def predictions_folder(self, round_number: int) -> Path:
        return self.round_folder(round_number) / "predictions"

    def predictions(self, job: Job) -> Path:
        return self.predictions_folder(job.round) / f"{job.name}.npz"

    def resume_log(self, round_number: int, rank: int, digests: Sequence[str]) -> Path:
        """The resume log of one process for the networks with these checkpoint digests."""
        return self.predictions_folder(round_number) / f"{_networks_key(digests)}-process{rank}.resume_log"

    def resume_logs(self, round_number: int) -> list[Path]:
        return list(self.predictions_folder(round_number).glob("*.resume_log"))

    def stack_folder(self, round_number: int) -> Path:
        """The folder of a round's stack; that of changed settings has their digest in its name."""
        # So the old stack and the new one are beside each other until one file, stack_settings.json, switches.
        digest = self.changed_stacks.get(round_number)
        return self.round_folder(round_number) / (f"stack-{digest}" if digest else "stack")

    def stack_folders(self, round_number: int) -> list[Path]:
        """The folders of a round's stacks by any settings."""
        return [*self.round_folder(round_number).glob("stack"), *self.round_folder(round_number).glob("stack-*")]

    def stack(self, round_number: int, folds: tuple[int, ...]) -> Path:
        return self.stack_folder(round_number) / f"fold{'-'.join(map(str, folds))}.safetensors"

    def evaluation(self, round_number: int) -> Path:
        return self.stack_folder(round_number) / "evaluation.npz"

    def scores(self, round_number: int) -> Path:
        """The last file of a stacked round."""
        return self.stack_folder(round_number) / "scores.json"


def _networks_key(digests: Sequence[str]) -> str:
    """Eight hex digits that stand for some networks: the batches in a log of others would be wrong."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:8]
