"""Environment for faults: a Ray cluster of several nodes on one machine, an MLflow server, and their faults."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import PLATFORM, REPOSITORY

WAIT_S = 900.0
"""Timeout of operations that take seconds on an idle machine."""

WORKERS = ("ray::RayTrainWorker", "ray::ImplicitFunc", "ray::_trial")
"""Titles of training processes: Ray Train's workers, and trials of a sweep."""

STORE_BYTES = 80 * 1024 * 1024
"""Object store of a node; Ray's minimum is 75 MiB."""

NUM_NODES = 2


def wait_for(condition: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
    """Wait for a condition; return its first true value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")


def patiently(start: Callable[[], Any], tries: int = 4) -> Any:
    """Start a node, with retries: Ray fails after 30 s, which may be too short on a busy machine."""
    for left in reversed(range(tries)):
        try:
            return start()
        except Exception:  # Ray raises a plain Exception
            if not left:
                raise
    raise AssertionError


def title(process: psutil.Process) -> str:
    """Return the title of a process; empty if it has ended."""
    try:
        return " ".join(process.cmdline()[:1])
    except psutil.Error:
        return ""


@dataclass
class World:
    """Ray cluster of this process: a head and two nodes with one CPU each, so that two workers need two nodes.

    Attributes:
        place: Folder of all runs.
        cluster: Ray's cluster object.
        nodes: The nodes other than the head.

    """

    place: Path
    cluster: Any = None
    nodes: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start Ray."""
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
        os.environ.setdefault("RAY_worker_niceness", "3")  # with Ray's default of 15, other load starves the workers
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        self.cluster = patiently(lambda: Cluster(initialize_head=True, connect=False, head_node_args=options))
        for _ in range(NUM_NODES):
            self.add_node()

    def add_node(self) -> None:
        """Add a machine."""
        self.nodes.append(patiently(lambda: self.cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)))

    def announce(self, node: Any, seconds: int) -> None:
        """Announce the preemption of a machine, as a cloud does."""
        command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", self.cluster.address]
        command += ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        command += ["--reason-message", "preempted", "--deadline-remaining-seconds", str(seconds)]
        subprocess.run(command, check=True, capture_output=True, timeout=WAIT_S)

    def remove_node(self, node: Any) -> None:
        """Remove a machine without notice."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        """Stop Ray."""
        if self.cluster is not None:
            self.cluster.shutdown()
            self.cluster = None

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a job on this cluster."""
        left_out = {"PYTHONPATH", "MLFLOW_TRACKING_URI", "CRYSATOM_HOME"}
        return {k: v for k, v in os.environ.items() if k not in left_out} | {"RAY_ADDRESS": self.cluster.address}

    def workers(self) -> list[psutil.Process]:
        """Return the training processes of all nodes."""
        family = psutil.Process().children(recursive=True)
        return [process for process in family if title(process).startswith(WORKERS)]

    def node_of(self, process: psutil.Process) -> Any:
        """Return the node of a process; None if it is the head or the process has ended."""
        try:
            parents = {parent.pid for parent in process.parents()}
        except psutil.Error:
            return None
        for node in self.nodes:
            if parents & {info.process.pid for info in node.all_processes["raylet"]}:
                return node
        return None

    @property
    def store(self) -> str:
        """MLflow's database."""
        return f"sqlite:///{self.place}/mlflow.db"


@dataclass
class MlflowServer:
    """Real MLflow server for the database of a world; it can be stopped and restarted."""

    world: World
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """URI of the server."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server at its port; return when it answers."""
        if not self.port:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", self.world.store]
        command += ["--artifacts-destination", str(self.world.place / "mlartifacts")]
        with (self.world.place / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_for(self._answers, "the MLflow server")

    def _answers(self) -> bool:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()  # noqa: S310 - our own server
            return True
        return False

    def stop(self) -> None:
        """Kill the server with its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=30)
            self.process = None


HOG = f"""
import time
import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ray.init(log_to_driver=False, runtime_env={{"env_vars": {{"PYTHONPATH": "{PLATFORM}"}}}})

@ray.remote(num_cpus=0)
class Hog:
    def fill(self, count):
        self.held = [ray.put(np.ones(20_000_000, np.uint8)) for _ in range(count)]

    def read(self):
        return sum(int(ray.get(ref)[0]) for ref in self.held)

nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
hogs = [Hog.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes]
ray.get([hog.fill.remote(8) for hog in hogs])
print("filled", flush=True)
while True:  # reading brings back what was spilled, so that something else must go
    ray.get([hog.read.remote() for hog in hogs])
    time.sleep(1)  # full are the stores to be, not the processors
"""


@contextlib.contextmanager
def full_object_stores(world: World) -> Iterator[None]:
    """Run another job that holds and reads twice the capacity of all object stores."""
    log = world.place / "hog.log"
    with log.open("wb") as stream:
        hog = subprocess.Popen([sys.executable, "-c", HOG], env=world.environment, stdout=stream, stderr=stream)
    try:
        wait_for(lambda: "filled" in log.read_text() or hog.poll() is not None, "full object stores")
        if hog.poll() is not None:
            raise RuntimeError(log.read_text())
        yield
    finally:
        hog.kill()
        hog.wait()


def spilled_bytes(world: World) -> int:
    """Return the number of bytes that the object stores spilled to disk."""
    session = Path(world.cluster.head_node.get_session_dir_path())
    return sum(file.stat().st_size for file in session.glob("ray_spilled_objects*/**/*") if file.is_file())


CLOCK = """
import os
import time

_time, _time_ns, _file = time.time, time.time_ns, os.environ["FAULTS_CLOCK"]


def _shift():
    try:
        return float(open(_file).read())
    except (OSError, ValueError):
        return 0.0


time.time = lambda: _time() + _shift()
time.time_ns = lambda: _time_ns() + int(_shift() * 1e9)
"""


def own_clock(folder: Path) -> tuple[dict[str, str], Path]:
    """Return an environment in which the clock is shifted by the seconds in a file, and that file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(CLOCK)
    return {"PYTHONPATH": str(folder), "FAULTS_CLOCK": str(folder / "shift")}, folder / "shift"


def job_command(name: str, *flags: str) -> list[str]:
    """Return the command line of a job, as users type it."""
    return [sys.executable, str(REPOSITORY / "jobs" / f"{name}.py"), *flags]
