"""A run: its recipe, manifest, jobs and rounds, and how far they are done; its paths are in `runs.paths`."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from melgpu import cli
from melgpu.data.manifest import TEST_SPLITS, Manifest, Split
from melgpu.data.pcm_cache import PcmCache, open_cache
from melgpu.errors import InputError
from melgpu.models import checkpoint, schema
from melgpu.models.metadata import Environment, NetworkProvenance, Provenance
from melgpu.recipe import Recipe
from melgpu.recipe_schema import RoundSpec, StackSettings
from melgpu.runs import round_tracks
from melgpu.runs.distillation import distributions
from melgpu.runs.distillation.distributions import TeacherPredictions
from melgpu.runs.formats import predictions, scores
from melgpu.runs.formats.scores import RoundScores
from melgpu.runs.job import Job
from melgpu.runs.paths import RunPaths
from melgpu.runs.round_tracks import RoundTracks


@dataclass(frozen=True)
class Run:
    """A run's recipe, manifest and state.

    without_pseudo : selects the variant of its rounds without pseudo labels
    changed_stack : the settings of the last round's stack, where they changed after training
    """

    folder: Path
    recipe: Recipe
    manifest: Manifest
    without_pseudo: bool = False
    changed_stack: StackSettings | None = None

    @property
    def last_round(self) -> int:
        return len(self.recipe.rounds)

    def stacking_recipe(self, round_number: int) -> Recipe:
        """The recipe by which a round is stacked: that of its networks, but for `changed_stack` in the last round."""
        if self.changed_stack and round_number == self.last_round:
            return self.recipe.restacked(self.changed_stack)
        return self.recipe

    def stack_settings(self, round_number: int) -> StackSettings:
        return self.stacking_recipe(round_number).stack_settings(round_number)

    def round_spec(self, round_number: int) -> RoundSpec:
        return self.stacking_recipe(round_number).rounds[round_number - 1]

    def jobs(self, round_number: int) -> list[Job]:
        spec = self.round_spec(round_number)
        return [Job(round_number, backbone, fold) for fold in spec.folds for backbone in spec.backbones]

    def uses_pseudo(self, round_number: int) -> bool:
        """Whether a round trains on the pseudo labels of the round before."""
        return round_number > 1 and not self.without_pseudo

    @cached_property
    def paths(self) -> RunPaths:
        digest = self.stacking_recipe(self.last_round).digest()
        changed = {self.last_round: digest} if digest != self.recipe.digest() else {}
        return RunPaths(self.folder, self.without_pseudo, changed)

    @property
    def submission_paths(self) -> dict[Split, Path]:
        """The submission file of each test set."""
        return {split: self.paths.submission(split) for split in TEST_SPLITS if split in self.manifest.splits}

    @cached_property
    def environment(self) -> Environment:
        """The environment in which the run was created. Raises InputError."""
        return schema.read_json(Environment, self.paths.environment)

    @cached_property
    def pcm_cache(self) -> PcmCache | None:
        return open_cache(self.paths.pcm_cache, self.recipe.audio, self.recipe.loader, len(self.manifest))

    def is_trained(self, job: Job) -> bool:
        return self.paths.job_scores(job).exists()  # written at the very end

    def trained_jobs(self, round_number: int) -> list[Job]:
        return [job for job in self.jobs(round_number) if self.is_trained(job)]

    def untrained_jobs(self, round_number: int) -> list[Job]:
        return [job for job in self.jobs(round_number) if not self.is_trained(job)]

    def is_predicted(self, job: Job) -> bool:
        """Whether there are predictions of the current checkpoint."""
        path = self.paths.predictions(job)
        if not path.exists():
            return False
        # A network that was trained again has another digest.
        predicted_digest = predictions.load_provenance(path).checkpoint_digest
        return predicted_digest == checkpoint.digest(self.paths.checkpoint(job))

    def is_stacked(self, round_number: int) -> bool:
        return self.paths.scores(round_number).exists()  # written at the very end

    @property
    def current_round(self) -> int | None:
        """The first round that is not stacked yet; None if all are."""
        # Never cached: stacking a round changes it.
        rounds = range(1, self.last_round + 1)
        return next((round_number for round_number in rounds if not self.is_stacked(round_number)), None)

    @property
    def last_stacked_round(self) -> int:
        """The number of rounds that are stacked."""
        return (self.current_round or self.last_round + 1) - 1

    @property
    def is_between_rounds(self) -> bool:
        """Whether a round is stacked and the next one is not begun."""
        next_round = self.current_round
        return next_round is not None and next_round > 1 and not self.paths.round_folder(next_round).exists()

    def choose_jobs(self, backbone: str | None, fold: int | None) -> list[Job]:
        """The current round's jobs, or those of one backbone or fold. Raises InputError if there are none."""
        round_number = self.current_round
        if round_number is None:
            raise ValueError("all rounds are done")
        jobs = self.jobs(round_number)
        selected = [job for job in jobs if backbone in (None, job.backbone) and fold in (None, job.fold)]
        if not selected:
            raise InputError(f"round {round_number} has only the jobs {', '.join(job.name for job in jobs)}")
        return selected

    def scores(self, round_number: int) -> RoundScores:
        """The scores of a stacked round. Raises InputError."""
        return scores.load(self.paths.scores(round_number))

    def finish_round(self, round_number: int, round_scores: RoundScores) -> None:
        """Mark a round as stacked: its scores are its last file."""
        scores.save(self.paths.scores(round_number), round_scores)

    @cached_property
    def class_names(self) -> list[str]:
        return self.manifest.class_names

    @cached_property
    def teacher_predictions(self) -> TeacherPredictions | None:
        """The distributions of a student's teacher; None for a run without one. Raises InputError."""
        distil = self.recipe.distil
        if distil is None:
            return None
        return distributions.load_teacher_predictions(self.paths.teacher_folder, self.manifest, distil.teacher or "")

    def round_tracks(self, round_number: int) -> RoundTracks:
        """The tracks of a round; its pseudo labels are read once. Raises InputError."""
        if round_number not in self._round_tracks:
            self._round_tracks[round_number] = self._load_tracks(round_number)
        return self._round_tracks[round_number]

    def _load_tracks(self, round_number: int) -> RoundTracks:
        if self.teacher_predictions:
            return round_tracks.load_student(self.manifest, self.teacher_predictions)
        path = self.paths.pseudo_labels(round_number - 1) if self.uses_pseudo(round_number) else None
        return round_tracks.load(self.manifest, path, round_number, self.recipe)

    @cached_property
    def _round_tracks(self) -> dict[int, RoundTracks]:
        return {}

    def provenance(self, round_number: int) -> Provenance:
        """What a round's networks were made from."""
        return Provenance(
            round=round_number,
            recipe_digest=self.recipe.digest(),
            pseudo_digest=self.round_tracks(round_number).pseudo_digest,
        )

    def job_provenance(self, job: Job, checkpoint_digest: str | None = None) -> NetworkProvenance:
        """The provenance of a job's network, or, with its checkpoint's digest, of its predictions."""
        return NetworkProvenance(
            **self.provenance(job.round).model_dump(),
            backbone=job.backbone,
            fold=job.fold,
            checkpoint_digest=checkpoint_digest,
        )

    def stack_provenance(self, round_number: int) -> Provenance:
        """The provenance of a round's stack and evaluation."""
        digest = self.stacking_recipe(round_number).digest()
        return self.provenance(round_number).model_copy(update={"recipe_digest": digest})

    @property
    def variant_suffix(self) -> str:
        """The variant of the later rounds, as a suffix for messages."""
        return " without pseudo labels" if self.without_pseudo else ""

    def command_line(self, script: str, *arguments: str) -> str:
        """The call of a script that goes on with this run, to be pasted into a shell."""
        variant = ["--without-pseudo"] if self.without_pseudo else []
        return cli.command_line(script, "--run", str(self.folder), *variant, *arguments)
