"""Run a job and watch every process of it: memory, open files, Ray's object store, files on disk.

Memory is read from ``/proc`` and kept in three parts: ``private`` (the process's own heap, RssAnon), ``store`` (pages
of Ray's object store that it has mapped, RssShmem, which several processes count at once), and what is left of ``rss``:
program code. A process's USS would be its private memory and those store pages that nobody else happens to have mapped;
growth is therefore measured by ``private``.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from numpy.typing import NDArray
from scipy.stats import theilslopes

MB = 1e6
TOKEN_MODE = {"RAY_AUTH_MODE": "token"}
"""Lets this process read what the raylet counts: a Ray that a job starts asks for the token in ``~/.ray``."""

SERVICES = {
    "gcs_server": "GCS",
    "raylet/raylet": "raylet",
    "dashboard/dashboard.py": "dashboard",
    "_private/monitor.py": "autoscaler monitor",
    "log_monitor.py": "log monitor",
    "ray-dashboard-": "dashboard modules",
    "multiprocessing.": "dashboard modules",  # where they are forked from
}
"""Parts of a command line by which Ray's own processes are known."""

ACTORS = {
    "DashboardAgent": "dashboard agent",
    "RuntimeEnvAgent": "runtime environment agent",
    "RayTrainWorker": "training workers",
    "TrainController": "training controller",
    "_QueueActor": "message queue",
    "SplitCoordinator": "Ray Data: split of the stream",
    "DatasetManager": "Ray Data: manager",
    "_StatsActor": "Ray Data: statistics",
    "_AutoscalingCoordinatorActor": "autoscaling coordinator",
    "PlacementGroupCleaner": "placement group cleaner",
    "SynchronizationActor": "Ray Train: synchronization",
    "_DatasetStatsActor": "Ray Data: statistics",
}
"""Titles of Ray's actors; any other title is that of a task, or of a worker that waits for one."""

DRIVER, TASKS, OTHER = "job", "task workers", "other"


@dataclass
class Watched:
    """What was seen of a job.

    Attributes:
        returncode: Of the job; 0: it succeeded.
        seconds: It took.
        processes: One row per sample and kind of process: ``seconds, kind, processes, files, rss, private, store``
            (memory in MB, summed over the processes of the kind) and ``largest`` (the largest ``private`` among them).
        system: One row per sample: ``seconds``, ``objects`` and ``object_mb`` in the object store, ``spilled_mb``,
            ``references`` to objects in all processes, ``session_files`` and ``session_mb`` in the folder of
            temporary files, ``shm_files`` in /dev/shm, ``out_files`` and ``out_mb`` in the folder of results.
        alive: Command lines of processes of the job that were there after it had ended.

    """

    returncode: int = -1
    seconds: float = 0.0
    processes: pd.DataFrame = field(default_factory=pd.DataFrame)
    system: pd.DataFrame = field(default_factory=pd.DataFrame)
    alive: list[str] = field(default_factory=list)

    def peaks(self) -> dict[str, dict[str, float]]:
        """Return the highest ``rss`` and ``private`` of each kind, and of all processes together, in MB."""
        by_kind = self.processes.groupby("kind")[["rss", "private", "largest"]].max()
        total = self.processes.groupby("seconds")[["rss", "private"]].sum().max()
        rows = {str(kind): {str(name): round(value) for name, value in row.items()} for kind, row in by_kind.iterrows()}
        return {**rows, "all": {str(name): round(value) for name, value in total.items()}}


def kind_of(command: Sequence[str]) -> str:
    """Return what kind of process a command line is of."""
    line = " ".join(command)
    if title := re.match(r"ray::(\w*)", line):
        return ACTORS.get(title[1], TASKS)
    for part, kind in SERVICES.items():
        if part in line:
            return kind
    return TASKS if "default_worker.py" in line else OTHER


def memory_of(status: str) -> dict[str, float]:
    """Return the resident memory in MB by the text of ``/proc/PID/status``: rss, private, store."""
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE)}
    names = {"rss": "VmRSS", "private": "RssAnon", "store": "RssShmem"}
    return {ours: kib.get(theirs, 0) * 1024 / MB for ours, theirs in names.items()}


def watch(
    command: Sequence[str],
    folder: Path,
    *,
    out: Path,
    every: float = 1.0,
    stop_after: float = float("inf"),
    environment: Mapping[str, str] | None = None,
) -> Watched:
    """Run a job and sample it until it ends; print a line on it every minute.

    Args:
        command: The job.
        folder: Gets ``job.log``, the samples as CSV files, and ``tmp``, in which the job has all its temporary files.
        out: Where the job writes its results.
        every: Seconds between samples.
        stop_after: Seconds after which the job is asked to end, by SIGTERM.
        environment: Further variables.

    """
    temporary = folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    variables = {**os.environ, **(environment or {}), "RAY_TMPDIR": str(temporary), "TMPDIR": str(temporary)}
    seen: dict[int, psutil.Process] = {}
    processes: list[dict[str, Any]] = []
    system: list[dict[str, Any]] = []
    store = ObjectStore()
    start = logged = time.monotonic()
    with (folder / "job.log").open("w") as log:
        job = subprocess.Popen(list(command), env=variables, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603 - ours
        while job.poll() is None:
            seconds = round(time.monotonic() - start, 1)
            rows = _sample(job.pid, seen, store)
            processes += [{"seconds": seconds, **row} for row in rows]
            system.append({"seconds": seconds, **store.counts(), **_files(temporary, out)})
            if seconds >= stop_after:
                job.terminate()
                stop_after = float("inf")
            if time.monotonic() - logged >= 60:
                logged = time.monotonic()
                _keep(folder, processes, system)  # a long watch can be looked at while it lasts
                private = sum(row["private"] for row in rows)
                print(f"{seconds / 60:5.1f} min  {private:,.0f} MB private, {system[-1]}", flush=True)
            time.sleep(max(0.0, every - (time.monotonic() - start - seconds)))
    result = Watched(returncode=job.returncode, seconds=round(time.monotonic() - start, 1))
    time.sleep(5)  # Ray's processes end a moment after the job
    result.alive = [" ".join(_command(process))[:120] for process in seen.values() if process.is_running()]
    result.processes, result.system = pd.DataFrame(processes), pd.DataFrame(system)
    _keep(folder, processes, system)
    return result


def _sample(pid: int, seen: dict[int, psutil.Process], store: ObjectStore) -> list[dict[str, Any]]:
    kinds: dict[str, dict[str, Any]] = {}
    root = psutil.Process(pid)
    try:
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    for process in family:
        seen.setdefault(process.pid, process)
        try:
            command = process.cmdline()
            memory = memory_of(Path(f"/proc/{process.pid}/status").read_text())
            files = process.num_fds()
        except (psutil.Error, OSError):
            continue  # it ended between the two looks
        kind = DRIVER if process.pid == pid else kind_of(command)
        store.notice(command)
        row = kinds.setdefault(
            kind, {"kind": kind, "processes": 0, "files": 0, "rss": 0.0, "private": 0.0, "store": 0.0, "largest": 0.0}
        )
        row["processes"] += 1
        row["files"] += files
        row["largest"] = max(row["largest"], memory["private"])
        for name, value in memory.items():
            row[name] += value
    return list(kinds.values())


def _keep(folder: Path, processes: list[dict[str, Any]], system: list[dict[str, Any]]) -> None:
    pd.DataFrame(processes).round(2).to_csv(folder / "processes.csv", index=False)
    pd.DataFrame(system).to_csv(folder / "system.csv", index=False)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _files(temporary: Path, out: Path) -> dict[str, float]:
    session, session_mb = contents(temporary)
    results, results_mb = contents(out)
    return {
        "session_files": session,
        "session_mb": round(session_mb, 2),
        "shm_files": len(os.listdir("/dev/shm")),  # noqa: S108, PTH208 - it is what is counted
        "out_files": results,
        "out_mb": round(results_mb, 2),
    }


def contents(folder: Path) -> tuple[int, float]:
    """Return the number of files below a folder, and their size in MB."""
    count, size = 0, 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                size += (Path(root) / name).lstat().st_size
            except OSError:
                continue  # removed since it was listed
            count += 1
    return count, size / MB


class ObjectStore:
    """What the raylet of a job counts, asked for from outside: no driver joins the job's Ray."""

    def __init__(self) -> None:
        self.gcs = ""
        self.raylet: tuple[str, int] | None = None

    def notice(self, command: Sequence[str]) -> None:
        """Find the address of the cluster in the command line of its raylet."""
        if not self.gcs and command and command[0].endswith("raylet/raylet"):
            found = re.search(r"--gcs-address=(\S+)", " ".join(command))
            self.gcs = found[1] if found else ""

    def counts(self) -> dict[str, float]:
        """Return objects and their MB in the store, spilled MB, references; nothing while Ray is not there."""
        if not self.gcs:
            return {}
        os.environ.update(TOKEN_MODE)
        from ray._private.internal_api import node_stats
        from ray._private.state import GlobalState
        from ray._raylet import GcsClientOptions

        try:
            if self.raylet is None:
                state = GlobalState()  # Ray's own function looks for 127.0.0.1 under another address
                options = GcsClientOptions.create(
                    self.gcs, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
                )
                state._initialize_global_state(options)  # noqa: SLF001 - there is no public way from outside
                node = next(node for node in state.node_table() if node["Alive"])
                self.raylet = node["NodeManagerAddress"], node["NodeManagerPort"]
            stats = node_stats(*self.raylet, include_memory_info=False)
        except Exception as error:  # noqa: BLE001 - Ray starts or ends; what was wrong is kept in the sample
            return {"missed": type(error).__name__}  # type: ignore[dict-item]
        store = stats.store_stats
        return {
            "objects": store.num_local_objects,
            "object_mb": round(store.object_store_bytes_used / MB, 2),
            "spilled_mb": round(store.spilled_bytes_total / MB, 2),
            "references": sum(worker.num_object_refs_in_scope for worker in stats.core_workers_stats),
        }


@dataclass(frozen=True, kw_only=True)
class Slope:
    """How fast a quantity grows.

    Attributes:
        per_hour: Its slope.
        low: Lower end of the 95 % interval.
        high: Upper end.
        level: Its median.

    """

    per_hour: float
    low: float
    high: float
    level: float

    def verdict(self, at_least: float) -> str:
        """Return ``flat``, ``grows`` or ``undecided``: whether the interval is below or above the allowed growth.

        Args:
            at_least: Growth per hour that is always allowed; 2 % of the level is, too.

        """
        allowed = max(at_least, 0.02 * self.level)
        if self.high <= allowed:
            return "flat"
        return "grows" if self.low > allowed else "undecided"


def slope(
    seconds: NDArray[np.floating], values: NDArray[np.floating], *, warm_up: float, block: float = 120.0
) -> Slope:
    """Fit a line through medians of blocks of time, by the median of the slopes of all pairs (Theil and Sen).

    Medians of blocks: neighboring samples are no independent ones, and a sample may hit a peak that lasts a second.

    Args:
        seconds: When the samples were taken, ``(n,)``, ascending.
        values: The samples, ``(n,)``.
        warm_up: Seconds at the beginning that are left out.
        block: Seconds in a block.

    Raises:
        ValueError: If fewer than three blocks are left.

    """
    late = seconds >= warm_up
    if not late.any() or (seconds[-1] - warm_up) < 3 * block:
        raise ValueError(f"a slope needs three blocks of {block:g} s after {warm_up:g} s, got {seconds[-1]:g} s in all")
    index = np.minimum((seconds[late] - warm_up) // block, (seconds[-1] - warm_up) // block - 1).astype(int)
    blocks = np.unique(index)
    medians = np.array([np.median(values[late][index == k]) for k in blocks])
    hours = (warm_up + block * (blocks + 0.5)) / 3600
    fit = theilslopes(medians, hours, alpha=0.95)
    return Slope(
        per_hour=float(fit.slope),
        low=float(fit.low_slope),
        high=float(fit.high_slope),
        level=float(np.median(values[late])),
    )
