"""`python -m benchmarks gpu`: nothing that fails in a step ends the run, and the table of claims is right."""

import json
import subprocess
import time

import pytest
import torch

from benchmarks import __main__
from benchmarks.commands import gpu
from benchmarks.gpu import claims, music, runner, setting, steps, wheels
from benchmarks.gpu.result import GpuResult
from benchmarks.gpu.runner import Runner
from benchmarks.gpu.steps import Step
from melgpu.errors import InputError
from tests.helpers import ROOT, run_script

MACHINE = {"device": "a card", "driver": "1", "cores": 2, "small": False, "git_commit": "abc", "load_warning": ""}
SHORT = ["parity", "training", "prediction", "loader", "memory"]  # those that take seconds


def fake_step(name: str, row_limit_s: float = 60.0) -> Step:
    return Step(name, name, f"tests.helpers.gpu_steps:{name}", 600.0, row_limit_s)


def run(*arguments) -> int:
    return __main__.main(["gpu", "--device", "cpu", *map(str, arguments)])


def test_on_a_cpu_it_runs_small_and_says_so(tmp_path, capsys):
    path = tmp_path / "x.json"
    assert run("--out", path, "--only", *SHORT) == 0
    output = capsys.readouterr().out
    assert "No GPU" in output
    result = json.loads(path.read_text())
    assert (result["benchmark"], result["small"], list(result["steps"])) == ("gpu", True, SHORT)
    for record in result["steps"].values():
        assert record["done"]
        assert record["rows"]
        assert all(f"  {name}: " in output for name in record["rows"])
    assert set(result["steps"]["training"]["rows"]) == {"resnet10t", "test_efficientnet"}
    assert 0 < result["steps"]["training"]["rows"]["resnet10t"]["feature_share"] < 1
    assert all(claim["held"] is None for claim in result["claims"])
    measured = {claim["claim"]: claim["measured"] for claim in result["claims"]}
    assert "the worst of 2" in measured["training from files, of ready pictures"]
    assert measured["torch.compile of one network"] == "not measured"


@pytest.mark.slow
def test_the_steps_that_take_a_minute(tmp_path):
    path = tmp_path / "x.json"
    assert run("--out", path, "--only", "checks", "tests", "features", "resume", "channels_last") == 0
    result = json.loads(path.read_text())
    assert result["steps"]["resume"]["rows"]["killed and resumed"]["same"]
    assert result["steps"]["tests"]["rows"]["pytest -m gpu"]["counts"].keys() <= {"passed", "skipped"}
    assert {"auto, batch of 4", "fft, batch of 1"} <= result["steps"]["features"]["rows"].keys()
    assert result["steps"]["checks"]["rows"]["gate, auto"]["engine"] == "fft"


def test_rows_that_raise_hang_or_crash_cost_themselves_alone(tmp_path):
    path = tmp_path / "x.json"
    result = GpuResult(path)
    said = []
    plan = [fake_step("all_kinds", 8.0 / runner.SMALL_FACTOR), fake_step("cannot_prepare"), fake_step("fine")]
    with Runner(result, "cpu", tmp_path, time.monotonic() + 600, said.append) as running:
        running.run(plan)
    data = json.loads(path.read_text())
    rows = data["steps"]["all_kinds"]["rows"]
    assert list(rows) == ["first", "raises", "hangs", "crashes", "last"]
    assert (rows["first"]["value"], rows["last"]["value"]) == (1, 2)
    assert rows["raises"]["error"] == "RuntimeError: no memory at all"
    assert rows["hangs"]["error"] == "took more than 8 s"
    assert rows["crashes"]["error"] == "its process ended with code 139: Segmentation fault, say"
    assert data["steps"]["all_kinds"]["done"]
    assert not result.is_done("all_kinds")
    assert data["steps"]["cannot_prepare"]["reason"] == "ValueError: no such network"
    assert result.is_done("fine")
    assert "cannot_prepare did not end: ValueError: no such network" in " ".join(said)


class ScriptedWorker:
    """Answers each request by the messages of the script, then times out."""

    started: list = []  # noqa: RUF012
    script: dict = {}  # noqa: RUF012

    def __init__(self, *args):
        self.messages = [{"machine": MACHINE}]
        self.skipped = {}
        ScriptedWorker.started.append(self)

    def request(self, step, skip):
        self.skipped[step.name] = sorted(skip)
        self.messages = [message for message in self.script[step.name] if message.get("began") not in skip]

    def receive(self, limit_s):
        if not self.messages:
            raise TimeoutError
        return self.messages.pop(0)

    def kill(self):
        pass


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(runner, "Worker", ScriptedWorker)
    monkeypatch.setattr(runner.music, "start", lambda *args: subprocess.Popen(["true"], process_group=0))
    monkeypatch.setattr(ScriptedWorker, "started", [])
    ScriptedWorker.script = {
        "fine": [{"began": "a"}, {"measured": "a", "row": {"text": "1"}}, {"ended": ""}],
        "stuck": [{"began": "a"}, {"measured": "a", "row": {"text": "1"}}, {"began": "b"}],
    }
    return ScriptedWorker


def run_plan(path, deadline_s, *plan):
    result = GpuResult(path)
    with Runner(result, "cpu", path.parent, time.monotonic() + deadline_s, lambda line: None) as running:
        running.run(plan)
    return result


def test_a_run_that_is_cut_off_resumes_with_the_rows_that_are_missing(scripted, tmp_path):
    path = tmp_path / "x.json"
    stuck, fine = Step("stuck", "", "x:y", 0.0, 0.0), Step("fine", "", "x:y", 60.0, 60.0)
    first = run_plan(path, 100, stuck)
    assert not first.is_done("stuck")
    assert "cut off" in first.data["steps"]["stuck"]["rows"]["b"]["error"]
    scripted.script["stuck"] += [{"measured": "b", "row": {"text": "2"}}, {"ended": ""}]
    scripted.script["stuck"] = scripted.script["stuck"][2:]
    second = run_plan(path, 100, stuck, fine)
    assert scripted.started[-1].skipped["stuck"] == ["a"]
    assert second.is_done("stuck")
    assert second.is_done("fine")
    assert list(second.data["steps"]["stuck"]["rows"]) == ["a", "b"]


def test_steps_do_not_wait_for_music_that_cannot_be_written(tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    (folder / "0.mp3").mkdir()  # where a file should be
    assert music.start(folder, 5, 1, tmp_path / "x.log").wait() == 1
    current = setting.make(torch.device("cpu"), folder)
    with pytest.raises(InputError, match="could not be written"):
        current.music()
    assert "mp3" in (tmp_path / "x.log").read_text()


def test_without_time_no_step_begins(scripted, tmp_path):
    result = run_plan(tmp_path / "x.json", runner.MIN_STEP_S - 1, Step("fine", "", "x:y", 60.0, 60.0))
    assert result.data["steps"]["fine"]["reason"] == "not run: the minutes are over"
    assert scripted.started[0].skipped == {}


def test_steps_that_failed_come_after_those_that_were_never_run(tmp_path):
    result = GpuResult(tmp_path / "x.json")
    result.set_machine(MACHINE)
    result.add_row("checks", "driver", {"error": "none"})
    result.end("checks", "")
    result.add_row("tests", "pytest", {"text": "all"})
    result.end("tests", "")
    names = [step.name for step in gpu._missing(result)]
    assert names == [*(name for name in steps.NAMES if name not in ("checks", "tests")), "checks"]


def test_a_package_that_is_not_installed_is_not_tried_again(tmp_path):
    result = GpuResult(tmp_path / "x.json")
    result.set_machine(MACHINE)
    result.add_row("features", "torchlibrosa", {"error": "ModuleNotFoundError: torchlibrosa", "not_installed": True})
    result.end("features", "")
    assert result.is_done("features")


def test_rows_of_another_commit_are_measured_anew(tmp_path):
    path = tmp_path / "x.json"
    result = GpuResult(path)
    result.set_machine(MACHINE)
    result.add_row("features", "fft", {"text": "1"})
    assert GpuResult(path).data["steps"]["features"]["rows"] == {"fft": {"text": "1"}}
    later = GpuResult(path)
    later.set_machine({**MACHINE, "git_commit": "def"})
    assert later.measured("features") == []


def test_the_result_of_another_machine_is_refused(tmp_path):
    path = tmp_path / "x.json"
    result = GpuResult(path)
    result.set_machine(MACHINE)
    result.end("fine", "")
    with pytest.raises(InputError, match=r"another machine \(device\)"):
        GpuResult(path).set_machine({**MACHINE, "device": "another card"})


@pytest.mark.parametrize("text", ["{", "[]", '{"benchmark": "suite"}', '{"benchmark": "gpu", "gpu_schema": 0}'])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x\.json: not a result"):
        GpuResult(tmp_path / "x.json")


def test_a_worker_that_does_not_start_is_one_line(tmp_path):
    completed = run_script("-m", "benchmarks", "gpu", "--device", "tpu", "--out", tmp_path / "x.json")
    assert completed.returncode == 2
    assert completed.stderr.startswith("error: the worker process does not start: its process ended with code")


def result_with(step: str, rows: dict, small: bool = False) -> dict:
    return {"small": small, "steps": {step: {"rows": rows}}}


def held(data: dict, text: str):
    (claim,) = [claim for claim in claims.claims(data) if text in claim["claim"]]
    return claim["held"], claim["measured"]


def test_nothing_is_claimed_without_measurements():
    table = claims.claims({"small": False, "steps": {}})
    assert {claim["held"] for claim in table} == {None}
    assert {claim["measured"] for claim in table} == {"not measured"}


def test_features_are_judged_by_the_worst_network():
    rows = {"resnet50": {"feature_share": 0.004}, "xception": {"feature_share": 0.03}, "x": {"error": "no memory"}}
    claim = "features in a training step"
    assert held(result_with("training", rows), claim) == (False, "3.00% (xception, the worst of 2)")
    rows["xception"]["feature_share"] = 0.019
    assert held(result_with("training", rows), claim)[0]
    assert held(result_with("training", rows, small=True), claim)[0] is None


def test_fused_is_compared_with_stock_nnaudio():
    rows = {
        "fused, batch of 32": {"windows_per_s": 1000.0, "share_of_limit": 0.3},
        "stock nnAudio, batch of 32": {"windows_per_s": 90.0, "share_of_limit": 0.03},
    }
    assert held(result_with("features", rows), "fused against stock") == (True, "11.1 times")
    assert held(result_with("features", rows), "memory limit") == (True, "30.0%")
    rows["stock nnAudio, batch of 32"] = {"error": "no memory"}
    assert held(result_with("features", rows), "fused against stock") == (None, "not measured")


def test_other_claims():
    files = {"a": {"files_over_ready": 0.99}, "b": {"files_over_ready": 0.97}}
    assert held(result_with("training", files), "from files, of ready") == (False, "0.970 (b, the worst of 2)")
    assert held(result_with("prediction", {"18 networks": {"files_over_alone": 0.96}}), "ensemble")[0]
    tests = {"pytest -m gpu": {"exit_code": 0, "counts": {"passed": 9}, "text": "9 passed"}}
    assert held(result_with("tests", tests), "tests marked") == (True, "9 passed")
    tests["pytest -m gpu"]["counts"] = {"skipped": 9}
    assert not held(result_with("tests", tests), "tests marked")[0]
    errors = {"fft": {"max_db": 0.01, "passed": True}, "nnaudio, TF32": {"max_db": 2.0, "passed": False}}
    assert held(result_with("parity", errors), "parity gate") == (True, "worst fft: 0.0100 dB")
    errors["fused"] = {"error": "no compiler"}
    assert held(result_with("parity", errors), "parity gate")[0] is False
    memory = {"training step": {"passed": True}, "front end": {"error": "out of memory"}}
    assert held(result_with("memory", memory), "out of memory") == (False, "went on: training step")


def test_a_resumed_training_is_compared_only_where_arithmetic_is_deterministic():
    def row(same, deterministic):
        return {"killed and resumed": {"same": same, "deterministic": deterministic, "text": ""}}

    assert held(result_with("resume", row(True, True)), "killed and resumed")[0]
    assert held(result_with("resume", row(False, True)), "killed and resumed")[0] is False
    assert held(result_with("resume", row(False, False)), "killed and resumed")[0] is None


def test_decoding_is_compared_with_the_fastest_network():
    data = result_with("training", {"a": {"windows_per_s": 100.0}, "b": {"windows_per_s": 900.0}})
    data["steps"]["loader"] = {"rows": {"decoded": {"windows_per_s": 500.0}}}
    assert held(data, "decoding") == (False, "500 windows/s for 900 (b)")


def test_wheels_are_those_of_the_constraints(tmp_path, capsys):
    assert run("--wheels") == 0
    listed = capsys.readouterr().out.split()
    assert set(listed) <= set((ROOT / "constraints.txt").read_text().split())
    assert {line.split("==")[0] for line in listed} == set(wheels.WHEELS)
    (tmp_path / "constraints.txt").write_text("soxr==1.0\n")
    with pytest.raises(InputError, match="no version of nnaudio, soundfile"):
        wheels.pinned(tmp_path / "constraints.txt")


def test_wheels_are_complete():
    """With what an image for deep learning has, they are all that melgpu needs, and what that needs in turn."""
    code = """
import re, sys
from importlib import metadata
from benchmarks.gpu import wheels
image = "torch torchaudio torchvision timm numpy scipy scikit-learn matplotlib rich jinja2 safetensors narwhals".split()
image.append("huggingface_hub")  # of timm
image.append("av")  # is left out: it is imported for files that libsndfile does not read, which benchmarks do not write
normal = lambda name: re.sub("[-_.]+", "-", name.lower())
known = {normal(name) for name in [*wheels.WHEELS, *image]}
for name in ["melgpu", *wheels.WHEELS]:
    for requirement in metadata.requires(name) or []:
        if "extra ==" not in requirement and normal(re.match("[A-Za-z0-9._-]+", requirement)[0]) not in known:
            print(name, requirement)
"""
    completed = run_script("-c", code)
    assert (completed.stdout, completed.returncode) == ("", 0), completed.stderr


def test_the_command_runs_without_packages_that_a_gpu_machine_lacks():
    """The wheels are listed without them, and no module of the benchmarks imports them before they are used."""
    for code, packages in (
        ("from benchmarks import __main__; __main__.main(['gpu', '--wheels'])", ["pydantic", "soundfile", "torch"]),
        (IMPORT_ALL, ["av", "librosa", "torchlibrosa", "pyarrow", "tensorboard", "nvidia.dali", "triton"]),
    ):
        block = f"import sys; sys.modules.update(dict.fromkeys({packages}))\n"
        completed = run_script("-c", block + code)
        assert completed.returncode == 0, completed.stderr


IMPORT_ALL = """
import importlib, pkgutil, benchmarks
for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks."):
    if module.name not in ("benchmarks.__main__", "benchmarks.references.dali"):
        importlib.import_module(module.name)
"""


def test_the_steps_are_imported_by_the_worker_alone():
    code = "import sys; from benchmarks.commands import gpu; sys.exit('torch' in sys.modules)"
    completed = run_script("-c", code)
    assert completed.returncode == 0, completed.stderr
    for step in steps.STEPS:
        assert callable(steps.load(step.function))
