"""The example for Slurm, run by Slurm: an array of parts, their merge, and a repair."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.examples import slurm_cluster
from tests.examples.parts import ENV, FLAGS, Library, differing_columns, kill_midway, silenced
from tests.examples.slurm_cluster import SlurmCluster
from tests.helpers import ROOT

OBSTACLE = slurm_cluster.obstacle()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(OBSTACLE), reason=OBSTACLE)]

SUBMIT = ROOT / "examples" / "slurm" / "submit.sh"
NUM_PARTS = 8
KILLED = 3
FILES_IN_BATCH = 10  # of 3 windows each, 32 in a batch


@dataclass(frozen=True)
class Array:
    """A list, the folder of its parts, and the states in which the array's tasks and the merge have ended."""

    tracks: Path
    answers: Path
    states: list[str]

    def log(self, name: str) -> str:
        return (self.answers.with_name("answers.logs") / f"{name}.log").read_text()


def submit(slurm: SlurmCluster, array: str, library: Library, tracks: Path, answers: Path) -> list[str]:
    """The numbers of both jobs."""
    output = slurm.call(SUBMIT, array, library.run, tracks, answers, *FLAGS, **ENV)
    return re.findall(r"job (\d+)", output)


@pytest.fixture(scope="module")
def array(slurm, library, tmp_path_factory) -> Array:
    """An array of which one task was killed by -9, after a batch: only its log has the answers for the files in it."""
    folder = tmp_path_factory.mktemp("array")
    answers = folder / "answers"
    tracks = library.freeze(folder, NUM_PARTS)
    jobs = submit(slurm, f"0-{NUM_PARTS - 1}", library, tracks, answers)
    kill_midway(answers, KILLED, f"SLURM_ARRAY_TASK_ID={KILLED}\0".encode())
    logged = [Path(line) for line in tracks.read_text().splitlines()[KILLED::NUM_PARTS]]
    with silenced(logged[:FILES_IN_BATCH]):
        states = slurm.wait(*jobs)
    return Array(tracks, answers, states)


def test_parts_of_an_array_merge_to_the_answers_of_one_process(array, library):
    assert array.states == ["COMPLETED"] * (NUM_PARTS + 1), array.log("merge")
    assert differing_columns(array.answers.with_name("answers.parquet"), library.expected) == []
    for part in range(NUM_PARTS):
        assert f"part {part} of {NUM_PARTS}, from SLURM_ARRAY_TASK_ID" in array.log(f"part-{part}")


def test_a_killed_task_is_queued_again_and_goes_on_from_its_log(array):
    for part in range(NUM_PARTS):
        log = array.log(f"part-{part}")
        starts = log.count("from SLURM_ARRAY_TASK_ID")
        assert starts == (2 if part == KILLED else 1), log
        assert log.count("exit code 137: queued again") == starts - 1


def test_a_merge_names_the_array_that_repairs_it(slurm, array, library, tmp_path):
    answers = tmp_path / "answers"
    shutil.copytree(array.answers, answers)
    (answers / "part-00005.parquet").unlink()
    damaged = Array(array.tracks, answers, slurm.wait(*submit(slurm, "0", library, array.tracks, answers)))
    assert damaged.states == ["COMPLETED", "FAILED"]
    assert f"part 0 of {NUM_PARTS} is finished" in damaged.log("part-0")
    assert "--array=5" in damaged.log("merge")
    assert not answers.with_name("answers.parquet").exists()
    assert slurm.wait(*submit(slurm, "5", library, array.tracks, answers)) == ["COMPLETED", "COMPLETED"]
    assert differing_columns(answers.with_name("answers.parquet"), library.expected) == []
