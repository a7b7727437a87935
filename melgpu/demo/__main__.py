"""Write a small synthetic music corpus as real audio files.

    python -m melgpu.demo DIR

writes `DIR/audio/*`, `DIR/train.csv`, `DIR/test.csv` and `DIR/private.csv` (filename,label).
"""

import argparse
from pathlib import Path

from melgpu import cli, console
from melgpu.demo import corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="output folder; a complete corpus in it is left unchanged"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the music (default: 0)")
    args = parser.parse_args()
    if (args.directory / "private.csv").exists():  # the file that is written last
        console.say(f"The demo corpus is in {args.directory}")
        return
    num_tracks = sum(map(len, corpus.plan(args.seed).values()))
    with console.progress("writing the demo corpus", num_tracks, "tracks") as progress:
        for name in corpus.write_corpus(args.directory, args.seed):
            progress.advance(1, name)
    console.say(f"Wrote {num_tracks} tracks to {args.directory}")


if __name__ == "__main__":
    cli.run(main)
