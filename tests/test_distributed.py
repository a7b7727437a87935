import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from melgpu import distributed
from melgpu.data.batch import Batch
from melgpu.runs.formats import predictions
from melgpu.training import loop
from melgpu.training.loop import TrainingData
from melgpu.training.state import start_training
from tests.helpers import ROOT, SMALL, run_script
from tests.helpers.training import MACHINE, TARGETS, Pictures, batches, results
from tests.helpers.two_ranks import NO_FLIPS, SPEC, Linear, train

TORCHRUN = [
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "--",
]  # without the two dashes torchrun parses --run itself
ENV = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_collectives_are_no_ops_in_one_process():
    with distributed.init_distributed(torch.device("cpu")) as device:
        assert device == torch.device("cpu")
        assert (distributed.rank(), distributed.world_size(), distributed.is_main_process()) == (0, 1, True)
        distributed.barrier()
        assert distributed.gather_to_main("x") == ["x"]
        assert distributed.all_reduce_sum(torch.ones(2)).tolist() == [1, 1]
        model = torch.nn.Linear(1, 1)
        assert distributed.wrap_ddp(model) is model


def global_batches(epoch, count):
    """The batches of both ranks, concatenated."""
    local = list(batches(epoch, count=count))
    for pair in zip(local[::2], local[1::2], strict=False):
        yield Batch(*(torch.cat([getattr(b, name) for b in pair]) for name in ("waves", "tracks", "starts", "valid")))


def test_two_ranks_equal_one_process_with_the_global_batches(tmp_path):
    result = run_script(*TORCHRUN, "-m", "tests.helpers.two_ranks", tmp_path, env=ENV)
    assert result.returncode == 0, result.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert (first["gathered"], second["gathered"]) == ([0, 1], None)
    assert first["broadcast"] == second["broadcast"] == "rank 0"
    assert first["log"] == second["log"]
    assert all(torch.equal(value, second["weights"][key]) for key, value in first["weights"].items())
    torch.manual_seed(0)
    single = start_training(Linear(), SPEC, MACHINE)
    data = TrainingData(lambda epoch, _: global_batches(epoch, 6), lambda: batches(99, count=5), TARGETS)
    for _ in loop.fit(single, Pictures(), data, SPEC, NO_FLIPS, seed=0):
        pass
    for key, value in single.model.state_dict().items():
        torch.testing.assert_close(first["weights"][key], value, rtol=1e-3, atol=1e-4)
    accuracies = [[record["window_accuracy"] for record in log] for log in (results(single.log), first["log"])]
    assert accuracies[0] == accuracies[1]
    local = train(0, 1)  # the local batches of one rank give other weights
    assert not torch.allclose(local.model.head.weight, single.model.head.weight, atol=1e-6)


def train_command(corpus, folder) -> list:
    overrides = [part for override in SMALL for part in ("--set", override)]
    lists = ["--data", corpus, "--labels", corpus / "train.csv", "--test", corpus / "test.csv"]
    return [*TORCHRUN, "train.py", "--run", folder, "--recipe", "demo", *overrides, *lists]


def test_scripts_under_torchrun(corpus, tmp_path):
    folder = tmp_path / "run"
    trained = run_script(*train_command(corpus, folder), env=ENV)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.count("Round 1 is trained. Next: python predict.py") == 1  # only the main process prints
    predicted = run_script(*TORCHRUN, "predict.py", "--run", folder, env=ENV)
    assert predicted.returncode == 0, predicted.stderr
    paths = sorted((folder / "round1" / "predictions").iterdir())
    assert len(paths) == 2
    distributed_predictions = [predictions.load(path) for path in paths]
    for path in paths:
        path.unlink()
    assert run_script("predict.py", "--run", folder).returncode == 0
    for sharded, path in zip(distributed_predictions, paths, strict=True):
        single = predictions.load(path)
        assert (sharded.ids, sharded.splits, sharded.provenance) == (single.ids, single.splits, single.provenance)
        assert abs(sharded.probs - single.probs).max() < 0.02  # bfloat16, in other batches
    rejected = run_script(*TORCHRUN, "predict.py", "--run", folder, corpus / "audio", env=ENV)
    assert rejected.returncode != 0
    assert "new music is predicted by one process a GPU" in rejected.stderr


def test_the_death_of_a_rank_ends_the_others(corpus, tmp_path):
    folder = tmp_path / "run"
    endless = ["--set", "optim.max_epochs=1000", "--set", "machine.save_minutes=0"]
    process = subprocess.Popen(
        list(map(str, [sys.executable, *train_command(corpus, folder), *endless])),
        cwd=ROOT, env={**os.environ, **ENV}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    last = folder / "round1" / "resnet50" / "fold0" / "last.pt"
    while not last.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    children = (path.parent for path in Path("/proc").glob("[0-9]*/stat"))
    second = next(path for path in children if is_rank(path, process.pid, "1"))
    os.kill(int(second.name), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert last.exists()


def is_rank(path, parent: int, rank: str) -> bool:
    """Whether a folder of /proc is the child of a process with a rank in its environment."""
    try:
        parent_pid = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
        return parent_pid == parent and f"\0RANK={rank}\0" in "\0" + (path / "environ").read_text()
    except OSError:
        return False
