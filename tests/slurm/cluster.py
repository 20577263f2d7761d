"""A Slurm of one node on this machine, with its own munge, configuration and ports: started, used, and stopped again.

Debian's packages are installed where they are missing; that, and starting Slurm by hand, needs root.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue")
CONFIG = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=60
MinJobAge=3600
NodeName=localhost CPUs=8 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


class NotHere(Exception):
    """Why there can be no Slurm on this machine."""


def install() -> None:
    """Debian's slurm-wlm and munge, where they are missing. Raises ``NotHere``."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        raise NotHere(f"Slurm is started as root on Linux, not as {getpass.getuser()} on {sys.platform}")
    if all(shutil.which(program) for program in PROGRAMS):
        return
    if shutil.which("apt-get") is None:
        raise NotHere("slurm-wlm and munge are not installed, and there is no apt-get to install them")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in ("update -qq", "install -qq --yes --no-install-recommends slurm-wlm munge"):
        try:
            done = subprocess.run(["apt-get", *words.split()], env=quiet, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired as error:
            raise NotHere(f"apt-get {words} took over 300 s") from error
        if done.returncode:
            raise NotHere(f"apt-get {words} failed: {done.stderr.strip().splitlines()[-1:]}")


class Cluster:
    """``with Cluster(folder) as cluster``: one node, eight processors however many there are."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._daemons = folder, []
        self.environment = {
            **os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def __enter__(self) -> Cluster:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        ports = _free_ports(2)
        settings = CONFIG.format(folder=self.folder, controller=ports[0], node=ports[1])
        (self.folder / "slurm.conf").write_text(settings)
        munge = {"key-file": key, "socket": self.folder / "munge.socket", "pid-file": self.folder / "munged.pid"}
        munge |= {"log-file": self.folder / "munged.log", "seed-file": self.folder / "munged.seed"}
        try:
            self._start("munged", "--foreground", "--force", *(f"--{name}={value}" for name, value in munge.items()))
            _until(lambda: (self.folder / "munge.socket").exists(), "munged does not start")
            self._start("slurmctld", "-D")
            self._start("slurmd", "-D", "-N", "localhost")
            _until(lambda: "idle" in self.run("sinfo", "-h", "-o", "%T", check=False), "the node does not come up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if len(self._daemons) > 1:
            self.run("scancel", "--user=root", check=False)
            with suppress(TimeoutError):
                _until(lambda: not self.run("squeue", "-h", check=False), "jobs do not end", 60)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start(self, program: str, *arguments: str) -> None:
        out = (self.folder / f"{program}.out").open("w")
        self._daemons.append(subprocess.Popen([program, *arguments], env=self.environment, stdout=out, stderr=out))

    def run(self, *command: str, check: bool = True) -> str:
        """A command of Slurm's; what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def sbatch(self, folder: Path, *arguments: str) -> str:
        """Submit from the folder of the checkout, output to ``folder``; the job's id."""
        where = [f"--chdir={ROOT}", f"--output={folder}/job-%j.log"]
        return self.run("sbatch", "--parsable", *where, *arguments)

    def state(self, job: str) -> dict[str, str]:
        """The fields of ``scontrol show job``, by name."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job: str, seconds: float) -> str:
        """The state in which a job has ended."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
        _until(lambda: self.state(job)["JobState"] in over, f"job {job} does not end", seconds)
        return self.state(job)["JobState"]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _until(true, what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} within {seconds:.0f} s")
        time.sleep(0.2)
