"""Contributions to jarvis_leaderboard: write the folder, and compute the score.

The leaderboard scores all ids that it recognizes, so it would rank a contribution with half of the crystals, or only
the easy ones. Here every official test crystal must be predicted exactly once.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crysatom.config.checks import require_name
from crysatom.crystals.csv_files import csv_line, read_written
from crysatom.crystals.splits import ids_digest
from crysatom.names import MATERIAL_ID, PREDICTION, PREDICTIONS_CSV, RESULTS_JSON, RUN_JSON, TARGET

logger = logging.getLogger(__name__)

Array = NDArray[Any]


class Benchmark(NamedTuple):
    """The official test set of a property: number of ids, and :func:`crysatom.crystals.splits.ids_digest` of them."""

    num_crystals: int
    digest: str


_ENERGIES = Benchmark(5572, "d16a0695ee106324fbf57c47c65ed8ff038b34f5269e09a9cca0a083cbd4e927")
_MODULI = Benchmark(1968, "73a54fdc84936466e49b736c76637e863dd0bc65c0c9a9904b7ac3a040d63a51")

BENCHMARKS: dict[str, Benchmark] = {
    "formation_energy_peratom": _ENERGIES,
    "optb88vdw_bandgap": _ENERGIES,
    "optb88vdw_total_energy": _ENERGIES,
    "ehull": Benchmark(5537, "7791c439f4f03069633c31c60687313f9c66396b208b8a1583d00dde7df7beea"),
    "mbj_bandgap": Benchmark(1815, "1c440c3e5154c53418fa9a082067fd828879d45994a208940d7d24480e50372d"),
    "bulk_modulus_kv": _MODULI,
    "shear_modulus_gv": _MODULI,
}
"""Benchmarks of dft_3d, as in jarvis_leaderboard commit 57afc55f."""

METADATA = "metadata.json"
RUN = "run.sh"
DATABASE_VERSION = "12-12-2022"

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # earliest time of the format; a constant time keeps the bytes equal


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions of a property for the official test crystals.

    Attributes:
        name: Property, one of :data:`BENCHMARKS`.
        material_ids: ``(n,)`` JVASP ids.
        prediction: ``(n,)`` values, in the unit of the property.
        seconds: Time taken by training and prediction.

    """

    name: str
    material_ids: Sequence[str] | Array
    prediction: Array
    seconds: float


@dataclass(frozen=True, kw_only=True)
class About:
    """Content of ``metadata.json`` and ``run.sh``; an administrator may run the latter.

    Attributes:
        model_name: Name of the model on the leaderboard.
        team_name: Name of the team on the leaderboard.
        project_url: Page or paper about the model.
        author_email: Address for questions.
        date_submitted: Date of the contribution.
        software_used: Packages, with versions.
        hardware_used: Processors and accelerators.
        git_url: Repositories with the code.
        commands: Shell commands that reproduce the predictions, line by line.
        language: Programming language.
        os: Operating system.

    """

    model_name: str
    team_name: str
    project_url: str
    author_email: str
    date_submitted: date
    software_used: str
    hardware_used: str
    git_url: tuple[str, ...]
    commands: tuple[str, ...]
    language: str = "Python"
    os: str = "linux"

    def __post_init__(self) -> None:
        empty = [name for name, value in asdict(self).items() if not value]
        if empty:
            raise ValueError(f"a contribution needs a value for {', '.join(empty)}")


def of_run(folder: str | Path) -> tuple[Predictions, dict[str, float]]:
    """Return the test predictions of a finished run of ``jobs/downstream.py``, and the targets by id.

    Args:
        folder: Folder of the run.

    Raises:
        ValueError: If the folder holds no finished run.

    """
    folder = Path(folder)
    try:
        run, results = (json.loads((folder / file).read_text()) for file in (RUN_JSON, RESULTS_JSON))
        rows = read_written(folder / PREDICTIONS_CSV)
        seconds = float(run["seconds"])
    except (OSError, KeyError) as error:
        raise ValueError(f"{folder} holds no finished run of jobs/downstream.py ({error})") from error
    ids = rows[MATERIAL_ID].tolist()
    made = Predictions(
        name=results["property"], material_ids=ids, prediction=rows[PREDICTION].to_numpy(), seconds=seconds
    )
    return made, dict(zip(ids, rows[TARGET].tolist(), strict=True))


def csv_name(name: str) -> str:
    """Return the name of the predictions file of a property, without ``.zip``.

    Raises:
        ValueError: If the property cannot be part of a file name.

    """
    require_name("a property", name)
    return f"AI-SinglePropertyPrediction-{name}-dft_3d-test-mae.csv"


def write_contribution(
    folder: str | Path, predictions: Sequence[Predictions], test_ids: Mapping[str, Sequence[str] | Array], about: About
) -> list[Path]:
    """Write the folder ``contributions/<name>`` of a contribution; equal predictions make equal bytes.

    Args:
        folder: New or empty folder; its name is the name of the contribution.
        predictions: One item per property.
        test_ids: Official test ids by property, from :func:`crysatom.crystals.splits.official`; messages name the
            missing ones.
        about: Metadata and commands.

    Returns:
        The files, in the order in which they were written.

    Raises:
        ValueError: If a test set is not the official one, or a crystal lacks a finite prediction or has several.
            Nothing is written.

    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; choose another, so that no old predictions are submitted")
    repeated = [name for name, count in Counter(p.name for p in predictions).items() if count > 1]
    if repeated or not predictions:
        raise ValueError(f"give predictions of each property once; {', '.join(repeated) or 'none are given'}")
    for p in predictions:
        _require_official(p.name, test_ids.get(p.name, ()))
        _require_complete(p, test_ids[p.name])
    folder.mkdir(parents=True, exist_ok=True)
    files = [_write_zip(folder / f"{csv_name(p.name)}.zip", _csv(p)) for p in predictions]
    metadata, run = folder / METADATA, folder / RUN
    metadata.write_text(json.dumps(_metadata(predictions, about), indent=4) + "\n")
    run.write_text("\n".join(["#!/bin/bash", "set -euo pipefail", *about.commands]) + "\n")
    run.chmod(0o755)
    return [*files, metadata, run]


def score(folder: str | Path, name: str, targets: Mapping[str, float]) -> float:
    """Return the MAE that the leaderboard will show: inner merge on the id as text, rounded to 4 digits.

    Reimplements jarvis_leaderboard/rebuild.py. Ids that one side lacks are ignored, as there, but with a warning.

    Args:
        folder: Folder of a contribution.
        name: Property.
        targets: Official test targets by id.

    Raises:
        ValueError: If the contribution has no predictions of the property, or none of these ids.

    """
    path = Path(folder) / f"{csv_name(name)}.zip"
    if not path.is_file():
        raise ValueError(f"{path} does not exist, so there are no predictions of {name}")
    predicted = pd.read_csv(path)
    lacking = {"id", "prediction"} - set(predicted.columns)
    if lacking:
        raise ValueError(f"{path}: the table lacks {', '.join(sorted(lacking))}; its columns must be id and prediction")
    predicted["id"] = predicted["id"].astype(str)
    actual = pd.DataFrame({"id": list(map(str, targets)), "actual": list(targets.values())})
    merged = predicted.merge(actual, on="id")
    if not len(merged):
        raise ValueError(f"{path}: none of its {len(predicted)} ids is among the {len(actual)} targets")
    if not len(merged) == len(predicted) == len(actual):
        logger.warning("%s: scored %d of %d predictions, %d targets", path, len(merged), len(predicted), len(actual))
    return round(float(np.abs(merged["prediction"] - merged["actual"]).mean()), 4)


def _require_official(name: str, test_ids: Sequence[str] | Array) -> None:
    if name not in BENCHMARKS:
        raise ValueError(f"{name!r} is not a dft_3d benchmark; choose from {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    if ids_digest(test_ids) != benchmark.digest:
        raise ValueError(
            f"the {len(test_ids)} test ids of {name} are not the {benchmark.num_crystals} official ones; take them "
            f"from split_{name} of the whole JARVIS table (jobs/ingest.py drops rows with repeated ids, of which some "
            "are test rows)"
        )


def _require_complete(predictions: Predictions, test_ids: Sequence[str] | Array) -> None:
    name, ids, values = predictions.name, [str(i) for i in predictions.material_ids], np.asarray(predictions.prediction)
    if values.shape != (len(ids),):
        raise ValueError(f"{name}: {len(ids)} ids, but predictions of shape {values.shape}; give one number per id")
    repeated = [i for i, count in Counter(ids).items() if count > 1]
    expected = set(map(str, test_ids))
    missing, foreign = sorted(expected - set(ids)), sorted(set(ids) - expected)
    wrong = {
        "are repeated": repeated,
        "are missing": missing,
        "are not test crystals": foreign,
        "have no finite prediction": [i for i, finite in zip(ids, np.isfinite(values), strict=True) if not finite],
    }
    if found := [f"{len(some)} {what} ({some[0]}, ...)" for what, some in wrong.items() if some]:
        raise ValueError(
            f"{name}: each of the {len(expected)} test crystals must be predicted once: {'; '.join(found)}"
        )


def _csv(predictions: Predictions) -> tuple[str, str]:
    """Return name and text of the table, sorted by id: the order of the predictions does not change the bytes."""
    values = np.asarray(predictions.prediction, dtype=np.float64).tolist()
    rows = sorted(zip(map(str, predictions.material_ids), values, strict=True))
    return csv_name(predictions.name), "".join(map(csv_line, [("id", "prediction"), *rows]))


def _write_zip(path: Path, member: tuple[str, str]) -> Path:
    """Write one text as an uncompressed zip: the output of deflate depends on the version of zlib."""
    info = zipfile.ZipInfo(member[0], _ZIP_TIME)
    info.create_system = 3  # Unix, on every system
    info.external_attr = 0o644 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, member[1])
    return path


def _metadata(predictions: Sequence[Predictions], about: About) -> dict[str, Any]:
    return {
        "model_name": about.model_name,
        "project_url": about.project_url,
        "date_submitted": about.date_submitted.strftime("%m-%d-%Y"),
        "author_email": about.author_email,
        "database_version": DATABASE_VERSION,
        "team_name": about.team_name,
        "time_taken_seconds": {csv_name(p.name): round(p.seconds, 1) for p in predictions},
        "language": about.language,
        "os": about.os,
        "software_used": about.software_used,
        "hardware_used": about.hardware_used,
        "git_url": list(about.git_url),
    }
