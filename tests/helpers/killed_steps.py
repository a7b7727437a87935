"""The steps of `make demo` and a student on a small corpus, killed by -9 at random file events and started again.

    python -m tests.helpers.killed_steps CORPUS FOLDER SEED KILLS

Each step is a forked process, so that torch is imported once. Prints the number of kills. FOLDER/whole is the run of
uninterrupted steps, FOLDER/killed that of the killed ones.
"""

import importlib
import os
import random
import signal
import sys
from pathlib import Path

from melgpu import cli
from tests.helpers import QUICK, SMALL

# Imported before the first fork; the others come with them.
PRELOADED = ("melgpu.training.round", "melgpu.prediction.round", "melgpu.stacking.round", "melgpu.report.html")
EVENTS = ("replace", "unlink", "mkdir", "fsync", "open")  # functions of `os`
MAX_CALLS = 300  # of whom many are killed; then the test is wrong, or a step does not get on
ROUNDS = (
    "rounds=[{backbones=['test_efficientnet'], folds=[0], blend={cnn=1.0}},"
    " {backbones=['test_efficientnet'], folds=[1], blend={cnn=0.9, lightgbm=0.1}}]"
)
STUDENT = ["rounds=[{backbones=['test_efficientnet'], folds=[0], blend={}}]", "mel.image_size=75", "mel.n_mels=64"]
STUDENT += ["optim.max_epochs=1", "optim.batch_size=4", "machine.save_minutes=0", "loader.workers=0"]
OVERRIDES = [*SMALL[:-1], *QUICK, "folds.num_folds=3", ROUNDS, "machine.save_minutes=0", "backbone.pretrained=false"]


def steps(corpus: Path, run: Path) -> list[list[str]]:
    """The calls of the scripts, in their order."""
    flags, student_flags = ([part for text in texts for part in ("--set", text)] for texts in (OVERRIDES, STUDENT))
    sources = ["--data", corpus, "--labels", corpus / "train.csv", "--test", corpus / "test.csv"]
    first = ["train", "--run", run, "--recipe", "demo", "--device", "cpu", *flags, *sources]
    following = [[script, "--run", run] for script in ("predict", "stack", "train", "predict", "stack")]
    student = ["train", "--run", run / "student", "--teacher", run, "--recipe", "student", "--recipe", "scratch"]
    return [list(map(str, call)) for call in (first, *following, [*student, "--device", "cpu", *student_flags])]


class KillAt:
    """Kills this process at its n-th file event, before or after it; counts them."""

    def __init__(self, event: int):
        self.event = event
        self.count = 0
        for name in EVENTS:
            setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, function):
        def call(*arguments, **keywords):
            self._tick()
            result = function(*arguments, **keywords)
            self._tick()
            return result

        return call

    def _tick(self) -> None:
        self.count += 1
        if self.count == self.event:
            os.kill(os.getpid(), signal.SIGKILL)


def run_step(call: list[str], event: int, folder: Path) -> tuple[int, int]:
    """(exit code, or the negative signal; number of file events) of one script."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = [f"{call[0]}.py", *call[1:]]
        counter = KillAt(event)
        try:
            cli.run(importlib.import_module(f"melgpu.commands.{call[0]}").main)
        except SystemExit as error:
            os.write(writer, str(counter.count).encode())
            os._exit(error.code)
        os._exit(70)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    with open(reader, encoding="utf-8") as pipe:
        return os.waitstatus_to_exitcode(status), int(pipe.read() or 0)


def check(code: int, folder: Path) -> None:
    if code not in (0, -signal.SIGKILL):
        sys.exit(f"exit code {code}: {(folder / 'output.txt').read_text()}")


def main(corpus: Path, folder: Path, seed: int, kills: int) -> None:
    for module in PRELOADED:
        importlib.import_module(module)
    rng = random.Random(seed)
    counts = []
    for call in steps(corpus, folder / "whole"):
        code, count = run_step(call, 0, folder)
        check(code, folder)
        counts.append(count)
    num_kills = 0
    done = 0  # steps since the last kill: make starts from the first again
    for _ in range(MAX_CALLS):
        if done == len(counts):
            print(num_kills)
            return
        event = rng.randint(1, counts[done]) if num_kills < kills and rng.random() < 0.5 else 0
        code, _ = run_step(steps(corpus, folder / "killed")[done], event, folder)
        check(code, folder)
        num_kills += code < 0
        done = 0 if code < 0 else done + 1
    sys.exit("it does not come to an end")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
