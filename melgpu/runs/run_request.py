"""A command line's request for a run: source lists, recipes, overrides; and the recipe that these make."""

from dataclasses import dataclass, replace
from pathlib import Path

from melgpu import console
from melgpu.data.manifest import Split
from melgpu.errors import InputError
from melgpu.recipe import Recipe, load_recipe
from melgpu.runs.checks import networks
from melgpu.runs.distillation import teacher as teachers
from melgpu.runs.distillation.teacher import Teacher


@dataclass(frozen=True)
class Sources:
    """The source lists of a new run, CSV files or folders, and the folder or URL of the files that the CSVs name.

    labels_from_tags : the tag that has the labels of the files in the folder `labels`
    """

    labels: Path | None
    test: Path | None
    private: Path | None
    data: str | None
    labels_from_tags: str | None = None

    @property
    def lists(self) -> dict[Split, Path | None]:
        """The source lists by split."""
        return {Split.TRAIN: self.labels, Split.PUBLIC: self.test, Split.PRIVATE: self.private}

    @property
    def arguments(self) -> list[str]:
        """The command-line arguments of the sources that are set."""
        names = ("labels", "labels_from_tags", "test", "private", "data")
        pairs = [(f"--{name.replace('_', '-')}", str(getattr(self, name))) for name in names if getattr(self, name)]
        return [argument for pair in pairs for argument in pair]


@dataclass(frozen=True)
class RunRequest:
    """The run folder, recipes and overrides of a command line, and the teacher of a student."""

    folder: Path
    recipes: list[str]
    overrides: list[str]
    without_pseudo: bool
    teacher: Teacher | None = None

    @property
    def named_recipes(self) -> list[str]:
        """Its recipes; `student` where there is a teacher, and no recipe."""
        return self.recipes or (["student"] if self.teacher else [])


def read_recipe(request: RunRequest, on_cpu: bool) -> Recipe:
    """The requested recipe for this machine; what a CPU changes is said. Raises InputError."""
    recipe = _load(request, on_cpu)
    if on_cpu and recipe != _load(request, on_cpu=False):
        console.say("No GPU: smaller pictures and a smaller network, as the recipe has them for a CPU")
    return recipe


def resolve_weights(request: RunRequest, requested: Recipe, on_cpu: bool) -> Recipe:
    """The requested recipe with its weights loaded once, in which nothing is left to choose; what was chosen is said.

    Raises InputError where it requires weights that cannot be loaded.
    """
    spec = requested.backbone
    if not spec.pretrained:
        return requested
    problems = networks.load_weights(requested)
    if problems and (spec.pretrained is True or spec.weights_dir):  # a named folder is required, too
        raise InputError(problems)
    if spec.pretrained is True:
        return requested
    if not problems:
        return _with_weights(request, on_cpu, has_weights=True)
    console.say(f"Training from scratch, which is less accurate: {problems[0]}")
    return _with_weights(request, on_cpu, has_weights=False)


def recipe_of_run(request: RunRequest, stored: Recipe, on_cpu: bool) -> Recipe:
    """The requested recipe, with or without weights as the stored recipe of its run has them. Raises InputError."""
    recipe = _load(request, on_cpu)
    if recipe.backbone.pretrained != "auto":
        return recipe
    return _with_weights(request, on_cpu, has_weights=stored.backbone.pretrained is True)


def _with_weights(request: RunRequest, on_cpu: bool, has_weights: bool) -> Recipe:
    """The requested recipe, where it leaves that open, with ImageNet weights or with the settings to train without."""
    if has_weights:
        return _load(replace(request, overrides=[*request.overrides, "backbone.pretrained=true"]), on_cpu)
    return _load(replace(request, recipes=[*request.named_recipes, "scratch"]), on_cpu)


def _load(request: RunRequest, on_cpu: bool) -> Recipe:
    """The requested recipe; a student's names its teacher. Raises InputError."""
    teacher = request.teacher
    base = teacher.run.recipe if teacher else None
    recipe = load_recipe(request.named_recipes, request.overrides, on_cpu, base)
    if not teacher and not recipe.distil:
        return recipe
    if not teacher:
        raise InputError(f"{request.folder}: a recipe with the table distil needs --teacher RUN, a finished run")
    if not recipe.distil:
        raise InputError("--teacher needs a recipe with the table distil: --recipe student")
    teachers.check_student(recipe, teacher.run.recipe)
    return recipe.model_copy(update={"distil": recipe.distil.model_copy(update={"teacher": teacher.digest})})
