import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from melgpu import distributed
from melgpu.data.batch import Batch
from melgpu.runs import predictions
from melgpu.training import loop
from tests.helpers import ROOT, SMALL, call
from tests.helpers.training import MACHINE, TARGETS, Pictures, batches
from tests.helpers.two_ranks import NO_FLIPS, SPEC, Linear, train

TORCHRUN = [
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "--",
]  # else torchrun takes --run for its own
PATHS = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_one_process_needs_none_of_it():
    with distributed.init_distributed(torch.device("cpu")) as device:
        assert device == torch.device("cpu")
        assert (distributed.rank(), distributed.world_size(), distributed.is_main_process()) == (0, 1, True)
        distributed.barrier()
        assert distributed.gather_to_main("x") == ["x"]
        assert distributed.all_reduce_sum(torch.ones(2)).tolist() == [1, 1]
        model = torch.nn.Linear(1, 1)
        assert distributed.wrap_ddp(model) is model


def pairs(epoch, count):
    """Two batches of the ranks as one."""
    made = list(batches(epoch, count=count))
    for one, other in zip(made[::2], made[1::2], strict=False):
        yield Batch(
            *(torch.cat([getattr(b, name) for b in (one, other)]) for name in ("waves", "tracks", "starts", "heard"))
        )


def test_two_ranks_train_as_one_with_the_batches_of_both(tmp_path):
    result = call(*TORCHRUN, "-m", "tests.helpers.two_ranks", tmp_path, env=PATHS)
    assert result.returncode == 0, result.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert (first["gathered"], second["gathered"]) == ([0, 1], None)
    assert first["log"] == second["log"]
    assert all(torch.equal(value, second["weights"][key]) for key, value in first["weights"].items())
    torch.manual_seed(0)
    one = loop.start(Linear(), SPEC, MACHINE)
    for _ in loop.fit(
        one, Pictures(), lambda epoch, _: pairs(epoch, 6), lambda: batches(99, count=5), TARGETS, SPEC, NO_FLIPS, seed=0
    ):
        pass
    for key, value in one.model.state_dict().items():
        torch.testing.assert_close(first["weights"][key], value, rtol=1e-3, atol=1e-4)
    accuracies = [[record["window_accuracy"] for record in log] for log in (one.log, first["log"])]
    assert accuracies[0] == accuracies[1]
    alone = train(0, 1)  # not the same as one rank's batches alone
    assert not torch.allclose(alone.model.head.weight, one.model.head.weight, atol=1e-6)


def command(corpus, folder) -> list:
    sets = [part for override in SMALL for part in ("--set", override)]
    lists = ["--data", corpus, "--labels", corpus / "train.csv", "--test", corpus / "test.csv"]
    return [*TORCHRUN, "train.py", "--run", folder, "--recipe", "demo", *sets, *lists]


def test_scripts_under_torchrun(corpus, tmp_path):
    folder = tmp_path / "run"
    trained = call(*command(corpus, folder), env=PATHS)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.count("Round 1 is trained. Next: python predict.py") == 1  # one of them speaks
    predicted = call(*TORCHRUN, "predict.py", "--run", folder, env=PATHS)
    assert predicted.returncode == 0, predicted.stderr
    made = sorted((folder / "round1" / "predictions").iterdir())
    assert len(made) == 2
    shared = [predictions.load(path) for path in made]
    for path in made:
        path.unlink()
    assert call("predict.py", "--run", folder).returncode == 0
    for together, path in zip(shared, made, strict=True):
        alone = predictions.load(path)
        assert (together.ids, together.splits, together.provenance) == (alone.ids, alone.splits, alone.provenance)
        assert abs(together.probs - alone.probs).max() < 0.02  # bfloat16, in other batches
    refused = call(*TORCHRUN, "predict.py", "--run", folder, corpus / "audio", env=PATHS)
    assert refused.returncode != 0
    assert "new music is for one process" in refused.stderr


def test_a_dead_rank_ends_the_others(corpus, tmp_path):
    folder = tmp_path / "run"
    long = ["--set", "optim.max_epochs=1000", "--set", "machine.save_every=1"]
    process = subprocess.Popen(
        list(map(str, [sys.executable, *command(corpus, folder), *long])),
        cwd=ROOT, env={**os.environ, **PATHS}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    last = folder / "round1" / "resnet50" / "fold0" / "last.safetensors"
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
    try:
        own_parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
        return own_parent == parent and f"\0RANK={rank}\0" in "\0" + (path / "environ").read_text()
    except OSError:
        return False
