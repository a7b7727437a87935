"""The flags that all benchmarks share, and the recipe that they name; imports nothing heavy."""

import argparse
import os
from pathlib import Path

from melgpu.recipe import Recipe


def arguments(description: str, tracks: int | None = None, epilog: str = "") -> argparse.ArgumentParser:
    """A parser; `tracks` is how many a benchmark of audio files takes if not told, None where it needs none."""
    shared = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if tracks:
        shared.add_argument("--music", type=Path, metavar="DIR", help="your own music (default: composed mp3)")
        shared.add_argument("--tracks", type=int, default=tracks, help=f"files to take (default: {tracks})")
    shared.add_argument("--recipe", action="append", default=[], help="name or TOML file (default: zalo2019)")
    shared.add_argument("--set", action="append", default=[], dest="overrides", metavar="TABLE.KEY=VALUE")
    shared.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
    shared.add_argument("--out", type=Path, metavar="FILE.json", help="keep the result")
    return shared


def settings_of(args: argparse.Namespace) -> Recipe:
    """The recipe that the flags name, with random weights, decoding on all cores, no bank."""
    from melgpu import recipe

    fixed = [f"stream.workers={os.cpu_count()}", "stream.bank=off", "backbone.pretrained=false"]
    return recipe.load(args.recipe, [*fixed, *args.overrides])


def paths_of(args: argparse.Namespace, folder: Path) -> list[str]:
    """The audio files that the flags name, or else composed ones, in a folder."""
    from benchmarks import music

    return music.own(args.music, args.tracks) or music.compose(folder, "mp3", args.tracks)
