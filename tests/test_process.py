"""Scripts in surroundings that lack something: a locale, standard streams, a name of the user."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from melgpu import machine, process
from tests.helpers import ROOT, write_audio

NAME = "nhạc số 1 ü"
SCRIPT = """
import sys
from pathlib import Path
from melgpu import cli, console, files
from melgpu.audio import worker
from melgpu.audio.pool import WorkerPool

def main():
    path, out = sys.argv[1:]
    with WorkerPool(1, 60.0) as pool:
        error = pool.submit(worker.check_file, path, 8_000, 8_000).result().error
    files.write_csv(Path(out), ("file", "error"), [(path, str(error))])
    console.say(path)
    return 0

cli.run(main)
"""


@pytest.fixture(scope="module")
def latin1_locale(tmp_path_factory) -> dict[str, str]:
    """The environment of a locale of ISO-8859-1."""
    folder = tmp_path_factory.mktemp("locales")
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.ISO-8859-1")]
    if not shutil.which("localedef") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("localedef cannot make a locale of ISO-8859-1")
    environment = {"LOCPATH": str(folder), "LC_ALL": "en_US.ISO-8859-1"}
    # Of such a process the encoding is another one: else the tests would prove nothing.
    probe = [sys.executable, "-c", "import sys; print(sys.getfilesystemencoding())"]
    assert subprocess.run(probe, capture_output=True, text=True, env=environment).stdout.strip() == "iso8859-1"
    return environment


def check(folder: Path, environment: dict[str, str], redirections: str = "") -> subprocess.CompletedProcess:
    """Run SCRIPT by a shell, and check that it has read a file of a Vietnamese name and written a CSV in UTF-8."""
    (folder / "script.py").write_text(SCRIPT)
    song = write_audio(folder / f"{NAME}.ogg", 1)
    out = folder / f"{NAME}.csv"
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, folder / "script.py", song, out]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    result = subprocess.run(list(map(os.fsencode, command)), capture_output=True, env=variables)
    assert result.returncode == 0, result.stderr
    assert out.read_text(encoding="utf-8").splitlines() == ["file,error", f"{song},None"]
    return result


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "ascii:strict", "utf-16"])
def test_a_console_that_cannot_show_a_name_ends_no_script(tmp_path, encoding):
    check(tmp_path, {"PYTHONIOENCODING": encoding})


def test_files_and_names_are_utf8_in_a_locale_of_another_encoding(tmp_path, latin1_locale):
    result = check(tmp_path, latin1_locale)
    assert NAME in result.stdout.decode()


@pytest.mark.parametrize("variables", [{"PYTHONUTF8": "0"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}])
def test_files_and_names_are_utf8_whatever_the_variables(tmp_path, latin1_locale, variables):
    check(tmp_path, {**latin1_locale, **variables})


def test_an_interpreter_that_ignores_variables_is_not_started_without_end(latin1_locale):
    code = "from melgpu import process; process.prepare(); print('once')"
    command = [sys.executable, "-E", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=latin1_locale, timeout=60)
    assert result.stdout == "once\n"


@pytest.mark.parametrize("redirections", ["2>&-", ">&-", "<&-", "2>&- <&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_error_of_a_file(tmp_path, redirections):
    check(tmp_path, {}, redirections)


def test_a_user_without_a_name_gets_one(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    process.set_user_name()
    assert "USER" not in os.environ  # this one has a name

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    process.set_user_name()
    assert os.environ["USER"] == f"uid-{os.getuid()}"


API = "melgpu.LogMel\nimportlib.import_module('torch._dynamo')"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("first", ["cli.run(lambda: importlib.import_module('torch._dynamo') and 0)", API])
def test_torch_starts_for_a_user_who_is_not_in_passwd(tmp_path, first):
    # The real user, who is asked for; the effective one stays root, so that this checkout can be read.
    code = f"import os; os.setresuid(12345, 0, 0)\nimport importlib\nimport melgpu\nfrom melgpu import cli\n{first}"
    variables = {"PATH": os.environ["PATH"], "HOME": "/", "TMPDIR": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=variables)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("quota", "threads"), [("max 100000", None), ("200000 100000", "2"), ("1600000 100000", None)])
def test_threads_are_limited_to_a_quota_only(tmp_path, monkeypatch, quota, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(machine, "CPU_QUOTA", tmp_path / "cpu.max")
    machine.CPU_QUOTA.write_text(quota)
    for already_set in ({}, {"OMP_NUM_THREADS": "5"}):  # what a user has set stays
        monkeypatch.setattr(os, "environ", dict(already_set))
        process.limit_threads()
        assert os.environ.get("OMP_NUM_THREADS") == already_set.get("OMP_NUM_THREADS", threads)


@pytest.mark.parametrize(
    ("load", "policy"),
    [
        ("0.00 0.01 0.05 1/345 678", None),  # this process alone
        ("9.00 9.01 9.05 1/345 678", None),  # others have ended
        ("0.00 0.01 0.05 2/345 678", "PASSIVE"),
        ("0.00 0.01 0.05 9/345 678", "PASSIVE"),
        ("", None),
        ("0.00 0.01 0.05 0/0 0", None),
    ],
)
def test_threads_wait_passively_beside_busy_processes_only(tmp_path, monkeypatch, load, policy):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(machine, "CPU_QUOTA", tmp_path / "absent")
    monkeypatch.setattr(process, "LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(os, "environ", {})
    process.set_wait_policy()
    assert os.environ == {}  # without such a file
    process.LOAD.write_text(load)
    for already_set in ({}, {"OMP_WAIT_POLICY": "ACTIVE"}):  # what a user has set stays
        monkeypatch.setattr(os, "environ", dict(already_set))
        process.set_wait_policy()
        assert os.environ.get("OMP_WAIT_POLICY") == already_set.get("OMP_WAIT_POLICY", policy)
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)  # enough cores for all
    process.set_wait_policy()
    assert os.environ == {}
