"""Configuration of the prediction of new crystals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crysatom.config.base import Group
from crysatom.config.checks import require
from crysatom.config.groups import Limits, Store, Workers


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Group):
    """Predict a property of new crystals with saved models.

    Up to 128 crystals are always predicted in this process. Starting Ray takes half a minute: it pays off from about
    10,000 crystals, with at least four workers.
    """

    inputs: tuple[str, ...]
    """Crystals: CIF files, folders of CIFs, crystal tables (.parquet), or any other source of the ingest job."""

    model: tuple[str, ...] = ()
    """Model: folder of a run or of its model, runs:/ID or only the ID, models:/NAME/VERSION, models:/NAME@ALIAS, or a
    .pth.tar of CGCNN's code. Repeat the flag for the mean and spread of several models of one property."""

    out: str = "predictions.csv"
    """Output CSV file, replaced if it exists; rejected crystals go to NAME.quarantine.csv beside it."""

    precision: Literal["training", "float32", "bf16"] = "training"
    """Precision of the matrix products of layers: 'training': that of each model's training; 'float32' or 'bf16'."""

    limits: Limits = Limits()
    workers: Workers = Workers(num_workers=0)
    tracking: Store = Store()

    def __post_init__(self) -> None:
        require(bool(self.inputs), "give the crystals to predict: CIF files, folders, crystal tables or other sources")
        require(bool(self.model), "give a model: --model, for example with the folder of a run")
        require(self.out.endswith(".csv"), f"out must name a .csv file, got {self.out!r}")
