"""The flags that all benchmarks share, and the recipe that they select; imports no torch."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from melgpu.machine import num_usable_cores

if TYPE_CHECKING:
    from melgpu.recipe import Recipe


def make_parser(description: str, tracks: int | str = "", epilog: str = "") -> argparse.ArgumentParser:
    """A parser; `tracks` is the default number of audio files (a text describes the default None; empty: no files)."""
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if tracks:
        music_help = "your own music, of formats that libsndfile reads (default: synthetic mp3)"
        parser.add_argument("--music", type=Path, metavar="DIR", help=music_help)
        default = tracks if isinstance(tracks, int) else None
        parser.add_argument("--tracks", type=int, default=default, help=f"number of files (default: {tracks})")
    parser.add_argument("--recipe", action="append", default=[], help="name or TOML file (default: zalo2019)")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="TABLE.KEY=VALUE")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", help="save the result (a pipe also gets it as the last line)"
    )
    return parser


def recipe_of(args: argparse.Namespace, *unchanged: str) -> "Recipe":
    """The recipe that the flags select, with random weights, no PCM cache, and decoding on all cores.

    `unchanged` are those of these settings ("loader.workers") that stay as the recipe has them. Raises InputError.
    """
    from melgpu.recipe import load_recipe  # only here: a bare machine, which asks for its wheels, has no pydantic

    fixed = {"loader.pcm_cache": "off", "backbone.pretrained": "false", "loader.workers": num_usable_cores()}
    return load_recipe(
        args.recipe, [*(f"{key}={fixed[key]}" for key in fixed if key not in unchanged), *args.overrides]
    )


def paths_of(args: argparse.Namespace, folder: Path, pieces: int = 4, seconds: float = 120) -> list[str]:
    """The audio files that the flags select, or synthetic tracks in a folder, `pieces` of them distinct.

    Raises InputError.
    """
    from benchmarks import corpus

    if args.music:
        return corpus.select(args.music, args.tracks)
    return corpus.compose(folder, "mp3", args.tracks, pieces, min(math.ceil(seconds), corpus.SECONDS))
