"""The audio files of the steps: synthetic mp3, written by a process of its own while the first steps run.

python -m benchmarks.gpu.music FOLDER COUNT SECONDS [PIECE]
"""

import os
import subprocess
import sys
from pathlib import Path

from melgpu.errors import InputError

PIECES = 4  # distinct ones; the other files are hard links to them
COMPLETE, FAILED = "complete", "failed"  # files that say so


def start(folder: Path, count: int, seconds: int, log_path: Path) -> subprocess.Popen:
    """A process that writes `count` files of `seconds`, in a process group with those that it starts."""
    with open(log_path, "ab") as log:
        return subprocess.Popen(_command(folder, count, seconds), stdout=log, stderr=log, process_group=0)


def is_complete(folder: Path) -> bool:
    """Whether all files are written. Raises InputError where that failed."""
    if (folder / FAILED).exists():
        raise InputError("the audio files could not be written: the log says why")
    return (folder / COMPLETE).exists()


def paths(folder: Path) -> list[str]:
    """All files, in their order."""
    return [str(path) for path in sorted(folder.glob("*.mp3"), key=lambda path: int(path.stem))]


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu.music", *map(str, arguments)]


def main(folder: Path, count: int, seconds: int, piece: int | None) -> int:
    """Write one piece, or all files by a process for each piece."""
    if piece is not None:
        from benchmarks import corpus  # only here: it imports soundfile

        corpus.write_piece(folder / f"{piece}.mp3", piece, seconds)
        return 0
    pieces = [subprocess.Popen(_command(folder, count, seconds, number)) for number in range(PIECES)]
    codes = [process.wait() for process in pieces]
    if any(codes):
        (folder / FAILED).touch()
        return 1
    for i in range(PIECES, count):
        os.link(folder / f"{i % PIECES}.mp3", folder / f"{i}.mp3")
    (folder / COMPLETE).touch()
    return 0


if __name__ == "__main__":
    folder_name, *numbers = sys.argv[1:]
    count, seconds, *piece = map(int, numbers)
    sys.exit(main(Path(folder_name), count, seconds, piece[0] if piece else None))
