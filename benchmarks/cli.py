"""The flags that all benchmarks share, and the recipe that they name; imports nothing heavy."""

import argparse
import math
import os
from pathlib import Path

from melgpu.recipe import Recipe, load_recipe


def arguments(description: str, tracks: int | str = "", epilog: str = "") -> argparse.ArgumentParser:
    """A parser; `tracks` is how many a benchmark of audio files takes if not told (text: what it makes of None)."""
    shared = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if tracks:
        own = "your own music, of formats that libsndfile reads (default: composed mp3)"
        shared.add_argument("--music", type=Path, metavar="DIR", help=own)
        most = tracks if isinstance(tracks, int) else None
        shared.add_argument("--tracks", type=int, default=most, help=f"files to take (default: {tracks})")
    shared.add_argument("--recipe", action="append", default=[], help="name or TOML file (default: zalo2019)")
    shared.add_argument("--set", action="append", default=[], dest="overrides", metavar="TABLE.KEY=VALUE")
    shared.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
    shared.add_argument(
        "--out", type=Path, metavar="FILE.json", help="keep the result (a pipe gets it as the last line, too)"
    )
    return shared


def recipe_of(args: argparse.Namespace, *own: str) -> Recipe:
    """The recipe that the flags name, with random weights, no bank, and decoding on all cores.

    `own` are those of these settings ("loader.workers") that stay as the recipe has them.
    """

    fixed = {"loader.pcm_cache": "off", "backbone.pretrained": "false", "loader.workers": os.cpu_count()}
    return load_recipe(args.recipe, [*(f"{key}={fixed[key]}" for key in fixed if key not in own), *args.overrides])


def paths_of(args: argparse.Namespace, folder: Path, pieces: int = 4, seconds: float = 120) -> list[str]:
    """The audio files that the flags name, or else so many pieces of composed music in a folder. Raises InputError."""
    from benchmarks import corpus

    if args.music:
        return corpus.own(args.music, args.tracks)
    return corpus.compose(folder, "mp3", args.tracks, pieces, min(math.ceil(seconds), corpus.SECONDS))
