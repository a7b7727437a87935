"""Music and its answers by one process, and a Slurm cluster."""

from collections.abc import Iterator

import pyarrow.parquet
import pytest

from tests.examples.parts import FLAGS, Library
from tests.examples.slurm_cluster import SlurmCluster
from tests.helpers import run_script, write_audio

NUM_FILES = 180  # several batches of 32 windows a part: of 3 windows each


@pytest.fixture(scope="session")
def library(trained_run, tmp_path_factory) -> Library:
    """Tracks, one of which cannot be read, and what one process answers to all."""
    music = tmp_path_factory.mktemp("library")
    for i in range(NUM_FILES):
        write_audio(music / f"{i:03}.wav", 2, 11_025, seed=i)  # which is repeated to 18 s
    (music / "007 text.mp3").write_text("no music")
    out = tmp_path_factory.mktemp("answers") / "genres.parquet"
    process = run_script("predict.py", "--run", trained_run, music, "--out", out, *FLAGS, env={"OMP_NUM_THREADS": "1"})
    assert process.returncode == 2, process.stderr  # for the file that cannot be read
    return Library(trained_run, music, pyarrow.parquet.read_table(out))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[SlurmCluster]:
    """A cluster that is ready; where Slurm does not start, its tests are skipped."""
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        if not cluster.is_ready():
            pytest.skip(f"Slurm does not start: {cluster.log('slurmctld').read_text()[-1000:]}")
        yield cluster
    finally:
        cluster.stop()
