"""A Slurm cluster on this machine: a controller and two nodes, each with two GPUs that are other devices."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.helpers import ROOT

PROGRAMS = ("slurmctld", "slurmd", "sbatch")
START_LIMIT_S = 30
JOBS_LIMIT_S = 300
# Without munge, cgroups and accounting, for which there is no need on one machine. Cores and memory are claimed, not
# measured. A job that is queued again waits a second more than cred_expire, of which less than 5 s means 120.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=100000
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
GresTypes=gpu
NodeName=node[0-1] NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]},{ports[2]} CPUs=16 RealMemory=65536 Gres=gpu:2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
GPUS = """
NodeName=node0 Name=gpu File=/dev/null
NodeName=node0 Name=gpu File=/dev/zero
NodeName=node1 Name=gpu File=/dev/full
NodeName=node1 Name=gpu File=/dev/random
"""


class SlurmCluster:
    """Files of the cluster are in `folder`, its daemons are children of this process."""

    def __init__(self, folder: Path):
        self.folder = folder
        # Without what belongs to a job of another cluster, in which this process may be.
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH"))}
        self.env["SLURM_CONF"] = str(folder / "slurm.conf")
        host = socket.gethostname().split(".")[0]
        (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, host=host, ports=free_ports(3)))
        (folder / "gres.conf").write_text(GPUS)
        (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        (folder / "state").mkdir()
        self._daemons = [self._start("slurmctld"), *(self._start("slurmd", "-N", f"node{node}") for node in (0, 1))]

    def _start(self, program: str, *flags: str) -> subprocess.Popen:
        command = [program, "-D", *flags, "-f", self.folder / "slurm.conf"]
        with open(self.log(program), "ab") as log:
            return subprocess.Popen(command, env=self.env, stdout=log, stderr=subprocess.STDOUT)

    def log(self, program: str) -> Path:
        return self.folder / f"{program}.log"

    def is_ready(self) -> bool:
        """Wait until both nodes are idle; False where they are not in time, or a daemon has ended."""
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and all(daemon.poll() is None for daemon in self._daemons):
            nodes = subprocess.run(["sinfo", "-h", "-N", "-o", "%T"], env=self.env, capture_output=True, text=True)
            if nodes.stdout.split() == ["idle", "idle"]:
                return True
            time.sleep(0.1)
        return False

    def call(self, *command: object, **env: str) -> str:
        """The output of a command that must succeed, called in the project; its jobs get the environment."""
        words = [str(word) for word in command]
        process = subprocess.run(words, cwd=ROOT, env={**self.env, **env}, capture_output=True, text=True, timeout=60)
        assert process.returncode == 0, process.stderr + process.stdout
        return process.stdout

    def wait(self, *jobs: str) -> list[str]:
        """The states in which the tasks of jobs have ended, sorted."""
        deadline = time.monotonic() + JOBS_LIMIT_S
        while time.monotonic() < deadline:
            states = self.call("squeue", "-h", "-r", "-t", "all", "-j", ",".join(jobs), "-o", "%T").split()
            if not {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"} & set(states):
                return sorted(states)
            time.sleep(0.2)
        raise AssertionError(f"after {JOBS_LIMIT_S} s: {', '.join(states)}")

    def stop(self) -> None:
        subprocess.run(["scancel", "--user=root"], env=self.env, capture_output=True, timeout=60)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait(timeout=60)


def obstacle() -> str:
    """Why there can be no cluster here; empty if nothing is known to hinder it."""
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client"
    return "Slurm's daemons need root" if os.geteuid() else ""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports
