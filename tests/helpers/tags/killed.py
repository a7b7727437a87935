"""The genre of a music file, written by processes that are killed by -9 at their n-th line of Python.

    python -m tests.helpers.tags.killed FILE KILLS

Prints how many of them left the old file, the new one, and anything else.
"""

import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType

from melgpu.tags import edit


class LineCounter:
    """Counts the lines that this process executes, and kills it at one of them."""

    def __init__(self, kill_at: int | None = None):
        self.kill_at = kill_at
        self.count = 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> "LineCounter":
        self.count += event == "line"
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return self


def write(path: Path, counter: LineCounter) -> None:
    sys.settrace(counter)
    edit.write_genre(str(path), "New Genre", 0.75)
    sys.settrace(None)


def write_in_child(path: Path, kill_at: int) -> int:
    """The signal that ended the child; 0 where it ended by itself."""
    pid = os.fork()
    if not pid:
        write(path, LineCounter(kill_at))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    path, kills = Path(sys.argv[1]), int(sys.argv[2])
    old = path.read_bytes()
    whole = path.with_name(f"whole{path.suffix}")
    shutil.copy(path, whole)
    write(whole, LineCounter())  # imports what is imported late
    shutil.copy(path, whole)
    counter = LineCounter()
    write(whole, counter)
    new = whole.read_bytes()
    # Evenly over the whole, and each of the last lines, among which the copy takes the file's place.
    moments = [*range(1, counter.count, counter.count // kills), *range(counter.count - kills, counter.count)]
    outcomes = {old: 0, new: 0}
    for moment in moments:
        path.write_bytes(old)
        if write_in_child(path, moment) != -signal.SIGKILL:
            sys.exit(f"not killed at line {moment} of {counter.count}")
        outcomes[path.read_bytes()] = outcomes.get(path.read_bytes(), 0) + 1
    print(outcomes[old], outcomes[new], len(outcomes) - 2)


if __name__ == "__main__":
    main()
