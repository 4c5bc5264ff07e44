"""Faults: one function each, with the disturbance of a running job and the user's response."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import PLATFORM
from tests.faults.kinds import Kind, epochs_done, newest_folder
from tests.faults.world import (
    WAIT_S,
    MlflowServer,
    World,
    full_object_stores,
    job_command,
    own_clock,
    spilled_bytes,
    wait_for,
)
from tests.full_disk import small_disk

SOME_FAILED = 3
"""Exit code of a sweep in which a trial failed."""

TERMINATED = 128 + signal.SIGTERM
AWAY_S = 60.0
LATEST = 12
"""Latest epoch after which a fault is injected; the rest of a longer run shows its effects."""

EPOCH_S = 1.5
"""Approximate time of an epoch."""

WORKER_LOST = "training resumes from"
TRIAL_LOST = "its process ended before its work"
PREEMPTED = "about to be preempted: saving now"
STOPPED = "stopped after"
NOT_WRITTEN = "could not be written"
DAMAGED = "is damaged: "
MLFLOW_AWAY = "does not answer"
MESSAGES = (WORKER_LOST, TRIAL_LOST, PREEMPTED, STOPPED, NOT_WRITTEN, DAMAGED, MLFLOW_AWAY)
"""Messages of jobs that injections wait for. A fast test checks that the code still has them."""


class MissedError(RuntimeError):
    """The job finished before the fault."""


class LostError(RuntimeError):
    """The job did not survive."""


def log_file(world: World, name: str) -> Path:
    """Return the file with the output of a job."""
    return world.place / "logs" / f"{name}.log"


@dataclass
class Job:
    """Job of one kind under its own name, whatever disturbs it.

    Attributes:
        world: World in which it runs.
        kind: Kind of the job.
        name: Name of the run.
        rng: Draws moments and victims.
        tracking_uri: MLflow's tracking URI.
        extra: Further flags.
        environment: Environment in addition to that of the world.
        starts: Number of starts.
        codes: Exit codes of its processes.
        notes: Events, for the record.

    """

    world: World
    kind: Kind
    name: str
    rng: random.Random
    tracking_uri: str = ""
    extra: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    starts: int = 0
    codes: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """File with its output."""
        return log_file(self.world, self.name)

    @property
    def output(self) -> str:
        """Output so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def trainings(self) -> list[Path]:
        """Folders with checkpoints."""
        return self.kind.trainings(self.world.place, self.name)

    @property
    def running(self) -> subprocess.Popen[bytes]:
        """Running process of the job."""
        assert self.process is not None
        return self.process

    def start(self, *more: str) -> None:
        """Start the job as a user does."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        flags = [*self.kind.command(self.world.place, self.name, self.tracking_uri or self.world.store), *self.extra]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                job_command(self.kind.job, *flags, *more),
                env=self.world.environment | self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.world.place,
            )
        self.starts += 1

    def resume(self) -> None:
        """Run the same command with ``--resume`` and wait for it; it must succeed."""
        self.start("--resume")
        self.finish()

    def finish(self, *codes: int) -> int:
        """Wait for the end; return the exit code.

        Raises:
            LostError: If it is neither 0 nor one of the given codes.

        """
        try:
            code = self.running.wait(timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()
            raise LostError(f"still there after {WAIT_S:.0f} s") from None
        self.codes.append(code)
        if code not in {0, *codes}:
            raise LostError(f"exit code {code}: {self.output.strip().splitlines()[-1:]}")
        return code

    def finish_or_resume(self) -> None:
        """Wait for the end; resume a sweep that lost a trial with the command it prints."""
        if self.finish(SOME_FAILED) == SOME_FAILED:
            self.resume()

    def at_some_moment(self, earliest: int = 1) -> None:
        """Wait for a random moment: after some epoch, and some time into the next."""
        epoch = self.rng.randint(earliest, max(earliest, min(self.kind.epochs - 4, LATEST)))
        delay = self.rng.uniform(0, EPOCH_S)

        def reached() -> bool:
            if self.running.poll() is not None:
                raise MissedError(f"the job had ended: {self.output.strip().splitlines()[-1:]}")
            return epochs_done(self.trainings) >= epoch

        wait_for(reached, f"epoch {epoch}")
        time.sleep(delay)
        if self.running.poll() is not None or self.over():
            raise MissedError("the job was over")
        self.notes.append(f"{delay:.2f} s after epoch {epoch} of {self.kind.epochs}")

    def over(self) -> bool:
        """Return whether all epochs are done."""
        return epochs_done(self.trainings) >= self.kind.epochs

    def victim(self) -> psutil.Process:
        """Return a random training process."""
        there = self.world.workers()
        if not there:
            raise MissedError("no worker is there")
        return self.rng.choice(there)

    def node_of_a_worker(self) -> Any:
        """Return a node other than the head on which a training process runs."""
        for worker in self.world.workers():
            if node := self.world.node_of(worker):
                return node
        raise MissedError("no worker on a node that may go")

    def kill(self) -> None:
        """Kill the process of the job, not those of Ray, as a machine out of memory does."""
        self.running.kill()
        self.codes.append(self.running.wait())

    def without_workers(self) -> None:
        """Wait until Ray has stopped the remaining workers of the job."""
        wait_for(lambda: not self.world.workers(), "the end of the workers", 60)

    def printed(self, pattern: str) -> None:
        """Record a line of the output.

        Raises:
            LostError: If there is none.

        """
        found = re.search(rf"^.*{pattern}.*$", self.output, re.MULTILINE)
        if not found:
            raise LostError(f"it did not print {pattern!r}")
        self.notes.append(f"said: {found[0].strip()[:400]}")


def worker_killed(job: Job) -> None:
    """A worker or a trial is killed, as if out of memory."""
    job.start()
    job.at_some_moment()
    job.victim().kill()
    job.finish_or_resume()
    job.printed(f"{WORKER_LOST}|{TRIAL_LOST}")


def worker_terminated(job: Job) -> None:
    """A worker or a trial is terminated."""
    job.start()
    job.at_some_moment()
    job.victim().terminate()
    job.finish_or_resume()


def node_removed(job: Job) -> None:
    """The machine of a worker disappears at once; another joins."""
    job.start()
    job.at_some_moment()
    node = job.node_of_a_worker()
    gone = time.monotonic()
    before = {worker.pid for worker in job.world.workers()}
    job.world.remove_node(node)
    job.world.add_node()

    def back() -> bool:
        return job.running.poll() is not None or bool({worker.pid for worker in job.world.workers()} - before)

    wait_for(back, "new workers")
    job.notes.append(f"new workers or the end {time.monotonic() - gone:.0f} s after the machine was gone")
    job.finish_or_resume()


def preempted(job: Job) -> None:
    """A machine announces its preemption and disappears; training continues with fewer workers, later with more."""
    job.start()
    job.at_some_moment()
    node = job.node_of_a_worker()

    def seen(sentence: str, times: int, since: float) -> None:
        """Wait for a sentence; record its time."""

        def there() -> bool:
            if job.running.poll() is not None:
                raise LostError(f"it ended before it printed {sentence!r} {times} times")
            return job.output.count(sentence) >= times

        wait_for(there, sentence)
        job.notes.append(f"{sentence!r} after {time.monotonic() - since:.0f} s")

    begin = time.monotonic()
    job.world.announce(node, 120)
    seen(PREEMPTED, 1, begin)
    begin = time.monotonic()
    job.world.remove_node(node)
    seen("training on 2 x", 1, begin)
    begin = time.monotonic()
    job.world.add_node()
    seen("training on 3 x", 2, begin)
    job.finish()


def driver_killed(job: Job) -> None:
    """The process of the job is killed, and the job resumed at once."""
    job.start()
    job.at_some_moment()
    job.kill()
    job.resume()


def driver_terminated(job: Job) -> None:
    """The job is terminated; it saves a checkpoint, and is resumed."""
    job.start()
    job.at_some_moment()
    begin = time.monotonic()
    job.running.terminate()
    job.finish(TERMINATED)
    job.notes.append(f"ended {time.monotonic() - begin:.1f} s after SIGTERM with code {job.codes[-1]}")
    if STOPPED in job.output:
        job.printed(STOPPED)
    elif job.kind.name != "sweep":
        job.notes.append("no step ended within its grace: it ended without a checkpoint")
    job.resume()


def disk_full(job: Job) -> None:
    """The disk of the checkpoints fills up; the job is killed, the disk freed, the job resumed."""
    [training] = job.trainings
    place = training / "checkpoints"
    place.mkdir(parents=True)
    with small_disk(place, 4_000_000):
        job.start()
        job.at_some_moment()
        filler = place / ".filler"
        with contextlib.suppress(OSError), filler.open("wb") as stream:
            while True:
                stream.write(bytes(4096))
                stream.flush()
        wait_for(lambda: NOT_WRITTEN in job.output or job.running.poll() is not None, "a warning")
        if NOT_WRITTEN in job.output:
            job.printed(f"No space left on device: checkpoint .* {NOT_WRITTEN}")
        else:
            job.notes.append("older checkpoints made room for each new one")
        if job.rng.random() < 0.5:
            time.sleep(job.rng.uniform(0, EPOCH_S))
            job.notes.append("killed while the disk was full, freed, resumed")
            job.kill()
            filler.unlink()
            job.resume()
        else:
            job.notes.append("never freed")
            job.finish()


def _damaged(job: Job, damage: Callable[[bytes], bytes]) -> None:
    job.start()
    job.at_some_moment(earliest=2)
    job.kill()
    job.without_workers()
    training = job.rng.choice(job.trainings)
    newest = newest_folder(training)
    assert newest is not None
    file = job.rng.choice(sorted(newest.glob("*.*")))
    file.write_bytes(damage(file.read_bytes()))
    job.notes.append(f"{newest.name}/{file.name}")
    job.resume()
    job.printed(rf"checkpoint .*{newest.name} {DAMAGED}.*{file.name}.*is used")


def checkpoint_truncated(job: Job) -> None:
    """A file of the newest checkpoint is truncated at a random position."""
    _damaged(job, lambda content: content[: job.rng.randrange(len(content))])


def checkpoint_flipped(job: Job) -> None:
    """A bit of the newest checkpoint is flipped."""

    def flip(content: bytes) -> bytes:
        changed = bytearray(content)
        # not in white space of JSON, where it would have no effect
        places = [k for k in range(len(content)) if not chr(content[k]).isspace()] if content[:1] == b"{" else None
        position = job.rng.choice(places) if places else job.rng.randrange(len(content))
        changed[position] ^= 1 << job.rng.randrange(8)
        return bytes(changed)

    _damaged(job, flip)


def mlflow_away(job: Job) -> None:
    """The MLflow server is killed and back after a minute; missing data are sent by the command that the job prints."""
    server = MlflowServer(job.world)
    server.start()
    try:
        job.tracking_uri = server.uri
        job.start()
        job.at_some_moment()
        server.stop()
        away = time.monotonic()
        job.finish()
        job.printed(f"{MLFLOW_AWAY} .* sent when it is back")
        time.sleep(max(0.0, AWAY_S - (time.monotonic() - away)))
        server.start()
        for training in job.trainings:
            command = [sys.executable, "-m", "crysatom.tracking.flush", str(training), "--tracking-uri", server.uri]
            environment = job.world.environment | {"PYTHONPATH": str(PLATFORM)}
            subprocess.run(command, env=environment, check=True, timeout=WAIT_S, cwd=job.world.place)
    finally:
        server.stop()


def object_store_pressure(job: Job) -> None:
    """Another job holds more than the object stores' capacity, so that Ray spills to disk all the time."""
    with full_object_stores(job.world):
        job.start()
        job.finish()
        job.notes.append(f"{spilled_bytes(job.world) / 1e6:.0f} MB on the disk at the end")


def worker_hangs(job: Job) -> None:
    """A worker hangs."""
    job.extra = ("--hang-timeout", "20")
    job.start()
    job.at_some_moment()
    victim = job.victim()
    victim.suspend()
    begin = time.monotonic()
    try:
        wait_for(lambda: WORKER_LOST in job.output or job.running.poll() is not None, "a message about it")
        job.notes.append(f"noticed after {time.monotonic() - begin:.0f} s")
        job.finish()
        job.printed(WORKER_LOST)
    finally:
        if victim.is_running():
            job.notes.append("the stopped process was still there at the end")
            victim.kill()


def clock_jumps(job: Job) -> None:
    """The clock of the job's process jumps by an hour, forward or back, during the run."""
    seconds = job.rng.choice((3600.0, -3600.0))
    job.environment, shift = own_clock(job.world.place / "clocks" / job.name)
    job.start()
    job.at_some_moment()
    shift.write_text(str(seconds))
    job.notes.append(f"by {seconds:+.0f} s")
    job.finish()


INJECTIONS: dict[str, Callable[[Job], None]] = {
    "worker killed (SIGKILL)": worker_killed,
    "worker told to end (SIGTERM)": worker_terminated,
    "worker hangs (SIGSTOP)": worker_hangs,
    "node removed, another added": node_removed,
    "machine taken away as announced, another added": preempted,
    "driver killed (SIGKILL), resumed": driver_killed,
    "driver told to end (SIGTERM), resumed": driver_terminated,
    "disk of the checkpoints full": disk_full,
    "checkpoint truncated, resumed": checkpoint_truncated,
    "checkpoint with a flipped bit, resumed": checkpoint_flipped,
    "MLflow server away for a minute": mlflow_away,
    "object stores full, Ray spills": object_store_pressure,
    "clock of the driver jumps by an hour": clock_jumps,
}
