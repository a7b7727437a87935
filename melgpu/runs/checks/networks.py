"""Problems of a recipe's networks and of their ImageNet weights."""

from collections.abc import Callable, Iterable

from melgpu import console
from melgpu.errors import InputError
from melgpu.features.log_mel import LogMel
from melgpu.models import classifier, weights
from melgpu.models.backbones import find_backbone
from melgpu.recipe import Recipe


def collect_problems(function: Callable, *arguments: object) -> list[str]:
    """The problems of the InputError that a call raises, if any."""
    try:
        function(*arguments)
    except InputError as error:
        return error.problems
    return []


def network_names(recipe: Recipe) -> list[str]:
    return sorted({name for spec in recipe.rounds for name in spec.backbones})


def recipe_problems(recipe: Recipe) -> list[str]:
    """Problems of a recipe's pictures and networks, and of weights that it requires; downloads nothing."""
    problems = collect_problems(LogMel, recipe.mel, recipe.audio.sample_rate)
    unusable = unusable_networks(recipe)
    if not unusable and recipe.backbone.pretrained is True:
        unusable = missing_weights(recipe, network_names(recipe))
    return problems + unusable


def unknown_networks(recipe: Recipe) -> list[str]:
    """Problems of names that timm does not know."""
    names = sorted({*network_names(recipe), *recipe.optim_overrides})
    return [problem for name in names for problem in collect_problems(find_backbone, name)]


def unusable_networks(recipe: Recipe) -> list[str]:
    """Problems of names, or else of networks that cannot take such pictures, by one forward pass of each."""
    if unknown := unknown_networks(recipe):  # an unknown network cannot be tried
        return unknown
    names = network_names(recipe)
    return [problem for name in names for problem in collect_problems(classifier.check_forward, name, recipe)]


def missing_weights(recipe: Recipe, names: Iterable[str]) -> list[str]:
    """Problems of ImageNet weights that are neither here nor, it seems, to be had; downloads nothing."""
    problems = []
    absent = []
    for name in names:
        try:
            if weights.find_local(name, recipe.backbone) is None:
                absent.append(name)
        except InputError as error:
            problems += error.problems
    if absent and (problem := weights.find_download_problem(absent, recipe.backbone)):
        problems.append(problem)
    return problems


def load_weights(recipe: Recipe) -> list[str]:
    """Problems of ImageNet weights, all of which are loaded once; downloads those that are not here."""
    names = network_names(recipe)
    if problems := missing_weights(recipe, names):
        return problems
    with console.progress("loading ImageNet weights", len(names), "networks") as tracker:
        for name in names:
            # With any number of classes: the head has no pretrained weights.
            problems += collect_problems(classifier.build, name, 2, recipe)
            tracker.advance(1, name)
    return problems
