"""Write a small synthetic music corpus as real audio files.

    python -m melgpu.demo DIR

makes `DIR/audio/*`, `DIR/train.csv`, `DIR/test.csv` and `DIR/private.csv` (filename,label).
"""

import argparse
from pathlib import Path

from melgpu import cli, console
from melgpu.demo import corpus


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument(
        "directory", type=Path, metavar="DIR", help="where the corpus goes; a finished one is left as it is"
    )
    args.add_argument("--seed", type=int, default=0, help="another seed, other music (default: 0)")
    parsed = args.parse_args()
    if (parsed.directory / "private.csv").exists():
        console.say(f"The demo corpus is in {parsed.directory}")
        return
    jobs = sum(map(len, corpus.plan(parsed.seed).values()))
    with console.progress("writing the demo corpus", jobs, "tracks") as tracker:
        for name in corpus.write_corpus(parsed.directory, parsed.seed):
            tracker.advance(1, name)
    console.say(f"Wrote {jobs} tracks to {parsed.directory}")


if __name__ == "__main__":
    cli.run(main)
