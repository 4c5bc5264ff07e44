"""States of a folder of graph shards: empty, unfinished, finished.

An unfinished folder keeps its plan, and a record per finished shard, in ``.progress``. A finished folder
has a manifest, which is written last, and no ``.progress``. All content is a function of the plan: a run
that was killed and resumed writes the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from crysatom.config import FeaturizeConfig
from crysatom.crystals.quarantine import QUARANTINE_SCHEMA, Rejected
from crysatom.crystals.rejections import streamed, to_parquet
from crysatom.crystals.table import open_table
from crysatom.graphs.shard_task import ShardRecord
from crysatom.graphs.shards import FORMAT_VERSION, MANIFEST, QUARANTINE, file_sha256, read_manifest, shard_files
from crysatom.names import SYMBOLS, __version__
from crysatom.writing import replaced, write_json

PROGRESS = ".progress"
INGESTED = "source_crystals"
"""Subfolder for the crystal table and its quarantine when the source is not a crystal table."""

_PLAN = "plan.json"
_LOCK = ".lock"
_PACKAGES = ("numpy", "pyarrow", "pymatgen")

Plan = dict[str, Any]


def make_plan(config: FeaturizeConfig, table: Path) -> Plan:
    """Return everything that determines the content of the shards: equal plans give equal files.

    Raises:
        ValueError: If the crystal table cannot be read.

    """
    return {
        "source": {"rows": open_table(table).metadata.num_rows, "sha256": file_sha256(table)},
        "graph": config.graph.to_dict(),
        "max_atoms": config.limits.max_atoms,
        "min_distance": config.limits.min_distance,
        "crystals_per_shard": config.crystals_per_shard,
    }


def is_finished(out: Path, plan: Plan) -> bool:
    """Return whether the folder already holds the finished shards of the plan.

    Raises:
        ValueError: If it holds graphs of another plan, or is damaged.

    """
    if not (out / MANIFEST).exists():
        return False
    _require_same(plan, read_manifest(out)["plan"], out)
    shard_files(out, verify=True)
    _forget_progress(out)
    return True


def require_ours(out: Path) -> None:
    """Check that the folder is absent, empty, or was written by this module.

    Raises:
        ValueError: Otherwise.

    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out must name a folder")
    ours = (out / MANIFEST).is_file() or (out / PROGRESS / _PLAN).is_file()
    if not ours and out.exists() and any(entry.name not in {PROGRESS, INGESTED} for entry in out.iterdir()):
        raise ValueError(f"{out} is not an empty folder, and holds no graph shards; choose another --out")


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Lock a folder (absent, empty or written by this module) for one writer; a process that dies releases it.

    The lock file is in ``.progress`` and is removed with it when the folder is finished.

    Raises:
        ValueError: If the folder holds other files, or another process has locked it.

    """
    require_ours(out)
    (out / PROGRESS).mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / PROGRESS / _LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, FileNotFoundError) as error:  # FileNotFoundError: the other process has just finished
        raise ValueError(f"another process is making graphs in {out}; wait for it, or choose another --out") from error
    try:
        yield
    finally:
        lock.release()


def enter(out: Path, plan: Plan, *, resume: bool) -> None:
    """Start in an empty folder, or resume an unfinished one.

    Raises:
        ValueError: If the folder holds an unfinished run and ``resume`` is off or its plan differs.

    """
    path = out / PROGRESS / _PLAN
    made_by = {**plan, "versions": _versions()}
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, made_by, path.parent)
    elif resume:
        _require_same(made_by, json.loads(path.read_text()), out)
    else:
        raise ValueError(
            f"{out} holds an unfinished run; continue it with --resume, choose another --out, or delete that folder"
        )


def finish(out: Path, plan: Plan, source: str, records: Iterable[ShardRecord]) -> None:
    """Write the quarantine, then the manifest; remove the progress records.

    Args:
        out: Folder that holds all shards.
        plan: Plan that they were made by.
        source: Where the crystals came from, as the user named it.
        records: Records of all shards, in order; read one by one, since they contain the rejected crystals.

    """
    shards = []
    with (
        replaced(out / QUARANTINE, out / PROGRESS) as temporary,
        pq.ParquetWriter(temporary, QUARANTINE_SCHEMA, compression="zstd") as file,
        streamed(to_parquet(file)) as rejections,
    ):
        for record in records:
            rejections.accepted += record.rows
            for row in record.rejected:
                rejections.add(Rejected(**row))
            shards.append(replace(record, rejected=[]))
    counts = _counts(shards, rejections.count)
    assert counts["accepted"] + counts["rejected"] == counts["read"] == plan["source"]["rows"]
    manifest = {
        "format_version": FORMAT_VERSION,
        "source": source,
        "plan": plan,
        "counts": counts,
        "shards": [{"file": r.file, "rows": r.rows, "bytes": r.num_bytes, "sha256": r.sha256} for r in shards],
        "quarantine": {"file": QUARANTINE, "rows": rejections.count, "sha256": file_sha256(out / QUARANTINE)},
        "versions": _versions(),
    }
    write_json(out / MANIFEST, manifest, out / PROGRESS)
    _forget_progress(out)


def _forget_progress(out: Path) -> None:
    shutil.rmtree(out / PROGRESS, ignore_errors=True)  # NFS keeps the name of an open file, here the lock


def _counts(records: list[ShardRecord], rejected: int) -> dict[str, Any]:
    elements: Counter[str] = Counter()
    for record in records:
        elements.update(record.elements)
    return {
        "read": sum(r.read for r in records),
        "accepted": sum(r.rows for r in records),
        "rejected": rejected,
        "atoms": sum(r.atoms for r in records),
        "edges": sum(r.edges for r in records),
        "elements": {symbol: elements[symbol] for symbol in SYMBOLS if elements[symbol]},
    }


def _versions() -> dict[str, str]:
    return {"crysatom": __version__, **{name: importlib.metadata.version(name) for name in _PACKAGES}}


def _require_same(wanted: Plan, found: Plan, out: Path) -> None:
    different = [
        f"{key}: {found.get(key)} there, {value} wanted" for key, value in wanted.items() if found.get(key) != value
    ]
    if different:
        raise ValueError(
            f"{out} holds graphs made otherwise ({'; '.join(different)}); choose another --out, or delete that folder"
        )
