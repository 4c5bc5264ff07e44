"""Read finished runs of ``jobs/downstream.py``: identity, settings and errors."""

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
    """Digests of everything that determines the numbers of a run; runs with equal identities are the same run.

    Attributes:
        settings: Digest of the configuration, with the seed.
        vectors: sha256 of the vectors as given, before missing elements are predicted and vectors are scaled; settings
            and data determine both.
        data: Digest of graphs, labels and split.
        init: Digest of the encoder or model that the run starts from; empty: none.
        distill: Digest of the encoder that it is distilled from; empty: none.

    """

    settings: str
    vectors: str
    data: str
    init: str = ""
    distill: str = ""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run.

    Attributes:
        folder: Folder of the run.
        config: Configuration; settings that the version of the run lacked have today's defaults.
        identity: See :class:`Identity`; ``settings`` is computed by today's code.
        earlier: Whether an earlier version made the run, so that its own digest of the settings differs.
        property: Predicted property.
        unit: Unit of the property.
        epochs: Number of trained epochs.
        metrics: Metrics by ``<part>/<metric>``.
        seconds: Time of all epochs.
        split_digest: Digest of the split.
        run_id: MLflow run; empty if MLflow was unavailable.

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
        """Seed of initial weights and batch order."""
        return self.config.seed

    def errors(self) -> pd.Series:
        """Return the absolute error of each test crystal, by id, in the unit of the property."""
        rows = read_written(self.folder / PREDICTIONS_CSV).set_index(MATERIAL_ID)
        return (rows[PREDICTION] - rows[TARGET]).abs()


def read_run(folder: str | Path) -> FinishedRun | None:
    """Return the run in a folder; None if that is not a finished run of a predictor.

    Raises:
        ValueError: If its files are damaged, or this version does not know its settings.

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
        return FinishedRun(
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


def find_runs(folder: str | Path) -> tuple[list[FinishedRun], list[str]]:
    """Return the finished runs in the subfolders of a folder, and the errors of those that cannot be read."""
    found: list[FinishedRun] = []
    unreadable = []
    for file in sorted(Path(folder).glob(f"*/{RUN_JSON}")):
        try:
            run = read_run(file.parent)
        except ValueError as error:
            unreadable.append(str(error))
        else:
            found += [] if run is None else [run]
    return found, unreadable
