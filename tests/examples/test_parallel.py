"""The example for GNU parallel, run by GNU parallel."""

import os
import shutil
import subprocess

import pytest

from tests.examples.parts import ENV, FLAGS, differing_columns, kill_midway
from tests.helpers import ROOT

NUM_PARTS = 2
KILLED = 1


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("parallel"), reason="no GNU parallel: apt-get install parallel")
def test_parts_merge_to_the_answers_of_one_process_although_one_is_killed(library, tmp_path):
    tracks = library.freeze(tmp_path, NUM_PARTS)
    answers = tmp_path / "answers"
    command = [ROOT / "examples" / "parallel.sh", NUM_PARTS, 2, library.run, tracks, answers, *FLAGS]
    with subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, **ENV},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        kill_midway(answers, KILLED, f"--part\0{KILLED}/{NUM_PARTS}\0".encode())
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert differing_columns(tmp_path / "answers.parquet", library.expected) == []
