"""The configuration of the prediction of new crystals."""

from __future__ import annotations

from dataclasses import dataclass

from crysatom.config.data import IngestConfig, require, require_each, require_limits


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Predict a property of new crystals with saved models."""

    inputs: tuple[str, ...]
    """CIF files, folders of CIFs, crystal tables (.parquet), or any other source that the ingest job reads."""

    model: tuple[str, ...] = ()
    """Folder of a run or of its model, runs:/ID or the ID alone, models:/NAME/VERSION, models:/NAME@ALIAS, or a
    .pth.tar of CGCNN's code. Give it several times for the mean and spread of several models of one property."""

    out: str = "predictions.csv"
    """File for the predictions, replaced if it is there; what is rejected goes to NAME.quarantine.csv beside it."""

    max_atoms: int = IngestConfig.max_atoms
    """Larger cells are rejected."""

    min_distance: float = IngestConfig.min_distance
    """Crystals with two atoms closer than this are rejected, in angstrom."""

    num_workers: int = 0
    """Workers on the Ray cluster; 0 runs in this process, without Ray, as up to 128 crystals always do. Ray takes half
    a minute to start: it pays from some 10,000 crystals on, with four workers or more."""

    use_gpu: bool = False
    threads_per_worker: int = 1
    """CPU threads of a worker."""

    tracking_uri: str = ""
    """MLflow, for models that are there; empty: MLFLOW_TRACKING_URI, or mlflow.db in the working directory."""

    def __post_init__(self) -> None:
        require(bool(self.inputs), "say what to predict: CIF files, folders, crystal tables or other sources")
        require(bool(self.model), "say by which model to predict: --model, the folder of a run for instance")
        require(self.out.endswith(".csv"), f"out must name a .csv file, got {self.out!r}")
        require_each(self, ("num_workers",), lambda value: value >= 0, "not be negative")
        require_each(self, ("threads_per_worker",), lambda value: value >= 1, "be at least 1")
        require_limits(self.max_atoms, self.min_distance)
