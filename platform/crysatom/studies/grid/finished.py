"""Finished runs of ``jobs/downstream.py`` as a study reads them: what they computed, on what, and how they erred."""

from __future__ import annotations

import builtins
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from crysatom.config import DownstreamConfig, config_of, digest
from crysatom.crystals.csv_files import read_written
from crysatom.models.files import MODEL_JSON
from crysatom.models.inference import MODEL_FOLDER
from crysatom.names import MATERIAL_ID, PREDICTION, PREDICTIONS_CSV, RESULTS_JSON, RUN_JSON, TARGET
from crysatom.tracking.fields import DATA_DIGEST, DISTILL_DIGEST, INIT_DIGEST, INIT_MODEL_DIGEST, SPLIT_DIGEST


class Identity(NamedTuple):
    """All that decides a run's numbers, as digests: equal identities are one run, wherever it lies.

    Attributes:
        settings: Of the configuration, its seed among it.
        vectors: sha256 of the vectors as they were given, before they were filled up and scaled, which is settings'
            and data's business.
        data: Of graphs, labels and split.
        init: Of the encoder or the model that it started from; empty: none.
        distill: Of the encoder that it was distilled by; empty: none.

    """

    settings: str
    vectors: str
    data: str
    init: str = ""
    distill: str = ""


@dataclass(frozen=True, kw_only=True)
class JudgedRun:
    """A finished run.

    Attributes:
        folder: The run's folder.
        config: Its settings; what its version did not know has today's default.
        identity: See :class:`Identity`, with ``settings`` as today's code computes them.
        earlier: Whether an earlier version made it, whose digest of the same settings is another one.
        property: What was learned.
        unit: Of the property.
        epochs: How many were trained.
        metrics: ``<part>/<metric>``.
        seconds: Time of all epochs.
        split_digest: Of the split.
        run_id: Of MLflow; empty if MLflow was away.

    """

    folder: Path
    config: DownstreamConfig
    identity: Identity
    earlier: bool
    property: str
    unit: str
    epochs: int
    metrics: dict[str, float]
    seconds: float
    split_digest: str
    run_id: str

    @builtins.property
    def seed(self) -> int:
        """Of initial weights and order of batches."""
        return self.config.seed

    def errors(self) -> pd.Series:
        """Return the absolute error of each test crystal, by id, in the unit of the property."""
        rows = read_written(self.folder / PREDICTIONS_CSV).set_index(MATERIAL_ID)
        return (rows[PREDICTION] - rows[TARGET]).abs()


def read_run(folder: str | Path) -> JudgedRun | None:
    """Return the run that a folder holds; None if it is no finished run of a predictor.

    Raises:
        ValueError: If its files are damaged, or its settings are none that this version knows.

    """
    folder = Path(folder)
    try:
        run = json.loads((folder / RUN_JSON).read_text())
        if not run.get("finished") or not (folder / PREDICTIONS_CSV).is_file():
            return None
        results = json.loads((folder / RESULTS_JSON).read_text())
        model = json.loads((folder / MODEL_FOLDER / MODEL_JSON).read_text())
        config = config_of(run["config"])
        about = model["training"]
        return JudgedRun(
            folder=folder,
            config=config,
            identity=Identity(
                settings=digest(config),
                vectors=model["vectors"]["sha256"],
                data=about[DATA_DIGEST],
                init=about.get(INIT_DIGEST, "") or about.get(INIT_MODEL_DIGEST, ""),
                distill=about.get(DISTILL_DIGEST, ""),
            ),
            earlier=digest(config) != run["config_digest"],
            property=results["property"],
            unit=results["unit"],
            epochs=results["epochs"],
            metrics=results["metrics"],
            seconds=float(run["seconds"]),
            split_digest=about[SPLIT_DIGEST],
            run_id=run.get("run_id", ""),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder} holds no run that can be read ({error}); move it elsewhere, or run it again"
        ) from error


def find_runs(folder: str | Path) -> tuple[list[JudgedRun], list[str]]:
    """Return the finished runs in the folders of a folder, and what is wrong with those that cannot be read."""
    found: list[JudgedRun] = []
    unreadable = []
    for file in sorted(Path(folder).glob(f"*/{RUN_JSON}")):
        try:
            run = read_run(file.parent)
        except ValueError as error:
            unreadable.append(str(error))
        else:
            found += [] if run is None else [run]
    return found, unreadable
