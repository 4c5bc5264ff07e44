"""Inject faults at random moments into real jobs on a real cluster, and check that results are unaffected.

    python -m tests.faults.harness --injections 30 --seed 0 --out /tmp/faults

Each outcome is a line of ``OUT/outcomes.jsonl``; an interrupted run continues after the last. At the end
``benchmarks/results/faults.json`` and the tables of ``benchmarks/faults.md`` are written.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
import traceback
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crysatom.tracking.environment import environment_tags, git_commit
from crysatom.tracking.store import client
from crysatom.training.machine import hardware
from tests.conftest import REPOSITORY
from tests.faults.injections import INJECTIONS, Job, LostError, MissedError, log_file
from tests.faults.kinds import Kind, kinds
from tests.faults.world import World

ATTEMPTS = 4
"""Attempts to hit a moment at which the job still runs."""

PRETRAINING, DOWNSTREAM, SWEEP = "pretraining", "downstream", "sweep"
STREAMED, ELASTIC = "streamed pretraining", "elastic pretraining"
PLAN: tuple[tuple[str, str], ...] = (
    ("worker killed (SIGKILL)", PRETRAINING),
    ("driver told to end (SIGTERM), resumed", PRETRAINING),
    ("node removed, another added", PRETRAINING),
    ("checkpoint truncated, resumed", PRETRAINING),
    ("worker hangs (SIGSTOP)", PRETRAINING),
    ("disk of the checkpoints full", PRETRAINING),
    ("checkpoint with a flipped bit, resumed", PRETRAINING),
    ("driver killed (SIGKILL), resumed", PRETRAINING),
    ("MLflow server away for a minute", PRETRAINING),
    ("clock of the driver jumps by an hour", PRETRAINING),
    ("worker told to end (SIGTERM)", PRETRAINING),
    ("object stores full, Ray spills", STREAMED),
    ("worker killed (SIGKILL)", DOWNSTREAM),
    ("driver told to end (SIGTERM), resumed", DOWNSTREAM),
    ("node removed, another added", DOWNSTREAM),
    ("checkpoint truncated, resumed", DOWNSTREAM),
    ("worker hangs (SIGSTOP)", DOWNSTREAM),
    ("disk of the checkpoints full", DOWNSTREAM),
    ("checkpoint with a flipped bit, resumed", DOWNSTREAM),
    ("driver killed (SIGKILL), resumed", DOWNSTREAM),
    ("MLflow server away for a minute", DOWNSTREAM),
    ("clock of the driver jumps by an hour", DOWNSTREAM),
    ("worker told to end (SIGTERM)", DOWNSTREAM),
    ("worker killed (SIGKILL)", SWEEP),
    ("driver killed (SIGKILL), resumed", SWEEP),
    ("driver told to end (SIGTERM), resumed", SWEEP),
    ("node removed, another added", SWEEP),
    ("checkpoint truncated, resumed", SWEEP),
    ("checkpoint with a flipped bit, resumed", SWEEP),
    ("worker told to end (SIGTERM)", SWEEP),
    ("machine taken away as announced, another added", ELASTIC),
    ("worker killed (SIGKILL)", STREAMED),
    ("disk of the checkpoints full", PRETRAINING),
    ("node removed, another added", STREAMED),
    ("driver killed (SIGKILL), resumed", STREAMED),
    ("checkpoint with a flipped bit, resumed", PRETRAINING),
    ("object stores full, Ray spills", STREAMED),
)
"""Injections in order; a longer run repeats them at other moments."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of an injection.

    Attributes:
        number: Number of the injection.
        fault: Name of the fault.
        kind: Kind of the job.
        survived: Whether the job finished with the results of an undisturbed run.
        how: 'went on', or 'resumed' by a second command.
        difference: Largest relative difference from the undisturbed run; NaN if that draws other batches.
        lost: Missing, duplicate or wrong results.
        notes: Moment, messages and further remarks.
        seconds: Time from the first start to the end.
        at: Time of the end.
        commit: Commit of the code.

    """

    number: int
    fault: str
    kind: str
    survived: bool
    how: str
    difference: float
    lost: list[str]
    notes: list[str]
    seconds: float
    at: str
    commit: str


def plan(count: int) -> list[tuple[str, str]]:
    """Return faults and kinds of jobs, in order."""
    return [PLAN[number % len(PLAN)] for number in range(count)]


def reference(world: World, kind: Kind) -> str:
    """Return the name of an undisturbed run of a kind; make it if it does not exist."""
    name = f"undisturbed-{kind.name.replace(' ', '-')}"
    if not all((folder / "history.csv").exists() for folder in kind.trainings(world.place, name) or [world.place]):
        job = Job(world, kind, name, random.Random(0))  # noqa: S311 - not for secrets
        job.start("--resume")
        job.finish()
    return name


def _unused(world: World, name: str) -> str:
    """Return an unused run name; a run that was interrupted with the harness left files."""
    several = itertools.chain((name,), (f"{name}-again-{k}" for k in itertools.count(1)))
    return next(name for name in several if not log_file(world, name).exists())


def inject(world: World, kind: Kind, fault: str, number: int, seed: int) -> Outcome:
    """Disturb one job and evaluate its results."""
    undisturbed = reference(world, kind)
    for attempt in range(ATTEMPTS):
        rng = random.Random(f"{seed} {number} {attempt}")  # noqa: S311 - not for secrets
        job = Job(world, kind, _unused(world, f"{number:03d}-{attempt}"), rng)
        begin = time.monotonic()
        lost: list[str] = []
        difference = float("nan")
        try:
            INJECTIONS[fault](job)
            verdict = kind.check(world.place, job.name, undisturbed, world.store)
            difference, lost = verdict.difference, verdict.lost
        except MissedError:
            continue
        except (LostError, TimeoutError) as error:
            lost = [str(error)]
        except Exception:  # noqa: BLE001 - errors of the harness itself are recorded, then the next injection runs
            lost = [traceback.format_exc()]
        finally:
            if job.process is not None and job.process.poll() is None:
                job.process.kill()
                job.process.wait()
        if difference > kind.tolerance:
            lost.append(f"the result differs by {difference:.1e}")
        return Outcome(
            number=number,
            fault=fault,
            kind=kind.name,
            survived=not lost,
            how="resumed" if job.starts > 1 else "went on",
            difference=difference,
            lost=lost,
            notes=[note.replace(f"{world.place}/", "") for note in job.notes],
            seconds=round(time.monotonic() - begin, 1),
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=git_commit(),
        )
    raise RuntimeError(f"{fault} came too late {ATTEMPTS} times: epochs of {kind.name} are too short here")


def read(file: Path) -> list[Outcome]:
    """Return the recorded outcomes."""
    return [Outcome(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def run(world: World, count: int, seed: int, only: str = "") -> list[Outcome]:
    """Inject the faults that are not recorded yet; return all recorded outcomes."""
    file = world.place / "outcomes.jsonl"
    done = {outcome.number for outcome in read(file)}
    client(world.store).search_experiments()  # create the tables of a new store once
    known = kinds(world.place)
    for number, (fault, name) in enumerate(plan(count)):
        if number in done or only not in f"{fault}, {name}":
            continue
        outcome = inject(world, known[name], fault, number, seed)
        with file.open("a") as stream:
            stream.write(json.dumps(asdict(outcome)) + "\n")
        print(f"{number:3d} {fault}, {name}: {'survived' if outcome.survived else outcome.lost}", flush=True)  # noqa: T201
    return read(file)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--injections", type=int, default=len(PLAN))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("/tmp/crysatom-faults"))  # noqa: S108 - a default
    parser.add_argument("--only", default="", help="injections whose fault and job, with a comma between, contain this")
    parser.add_argument("--no-report", action="store_true", help="leave benchmarks/ as it is")
    given = parser.parse_args()
    world = World(given.out.resolve())
    world.start()
    try:
        outcomes = run(world, given.injections, given.seed, given.only)
    finally:
        world.close()
    if not given.no_report:
        from tests.faults.report import write

        facts: dict[str, Any] = {
            "command": f"python -m tests.faults.harness --injections {given.injections} --seed {given.seed}",
            "hardware": hardware(),
            "versions": environment_tags(""),
        }
        write(outcomes, facts, REPOSITORY / "benchmarks")
    print(f"{sum(o.survived for o in outcomes)} of {len(outcomes)} survived")  # noqa: T201


if __name__ == "__main__":
    main()
