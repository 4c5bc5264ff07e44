"""Run a third-party reader in its own process, with limits: exceeding them ends that process, not the job."""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import NoReturn

import pyarrow as pa

import crysatom
from crysatom.crystals.quarantine import Reason, Rejected
from crysatom.crystals.record import RAW_SCHEMA, Record, from_batch, to_batch
from crysatom.crystals.sources.base import rejected

GIGABYTES = 6
"""Limit of the address space; imported libraries take about 1 GB."""

SECONDS = 120
"""CPU time limit for one record; after twice this time the process is killed if the reader has not stopped."""

BATCH = 64
"""Maximum number of records transferred at a time."""

Reader = Callable[[str], Iterator[Record | Rejected]]


def confined(
    module: str, path: str, *arguments: str, seconds: int = SECONDS, gigabytes: int = GIGABYTES
) -> Iterator[Record | Rejected]:
    """Yield the records that a module's function ``read`` yields for a file, from a process with limits.

    If a limit is exceeded, the last record is a row of the quarantine; it says that the rest was not read.

    Args:
        module: Module with ``read(path, *arguments)``.
        path: Path of the file.
        arguments: Further arguments.
        seconds: CPU time limit for one record.
        gigabytes: Limit of the address space.

    """
    root = str(Path(crysatom.__file__).parents[1])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", __name__, str(seconds), str(gigabytes), module, path, *arguments]
    environment = os.environ | {"PYTHONPATH": paths}
    number = 0
    process = subprocess.Popen(  # noqa: S603 - our own module, no shell
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    try:
        ended_well = False
        try:
            with pa.ipc.open_stream(process.stdout) as batches:
                for batch in batches:
                    for record in from_batch(pa.Table.from_batches([batch])):
                        number += 1
                        yield record
                ended_well = process.wait() == 0
        except (pa.ArrowInvalid, OSError):  # the stream is truncated
            process.wait()
        if not ended_well:
            yield _cut_off(path, number, process.returncode, seconds)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _cut_off(path: str, number: int, code: int, seconds: int) -> Rejected:
    slow = code == -signal.SIGXCPU
    how = f"took more than {2 * seconds} s of a processor" if slow else f"ended its process with code {code}"
    message = f"reading what follows record {number} {how}; it was not read: correct the file"
    name = f"{Path(path).stem}-{number + 1}"
    return rejected(Reason.UNREADABLE, message, material_id=name, source=f"{path}#{number + 1}")


def why(error: Exception) -> str:
    """Return the message of a reader's exception; a MemoryError has none of its own."""
    if isinstance(error, MemoryError):
        return "it asks for more memory than a reader may have"
    return f"{type(error).__name__}: {error}"


def _serve(read: Reader, path: str, seconds: int, gigabytes: int) -> None:
    """Write all records to the standard output, which nothing else may use from here on."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # redirect what a reader prints
    signal.signal(signal.SIGPROF, _too_slow)
    _limit(resource.RLIMIT_AS, gigabytes * 2**30)
    with pa.ipc.new_stream(output, RAW_SCHEMA) as stream:
        records = _timed(read(path), seconds)
        while batch := list(islice(records, BATCH)):
            stream.write_table(to_batch(batch))
            output.flush()


def _timed(records: Iterator[Record | Rejected], seconds: int) -> Iterator[Record | Rejected]:
    """Yield records; the time of each is limited by an exception in the reader, or else by killing the process."""
    while True:
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + 2 * seconds)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        record = next(records, None)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if record is None:
            return
        yield record


def _too_slow(*_: object) -> NoReturn:
    raise TimeoutError("it takes too long")


def _limit(which: int, value: int) -> None:
    """Set a limit unless a lower one is set."""
    _, most = resource.getrlimit(which)
    resource.setrlimit(which, (value if most == resource.RLIM_INFINITY else min(value, most), most))


def _main(seconds: str, gigabytes: str, module: str, path: str, *arguments: str) -> None:
    read = import_module(module).read
    _serve(lambda file: read(file, *arguments), path, int(seconds), int(gigabytes))


if __name__ == "__main__":
    _main(*sys.argv[1:])
