"""The configuration of the prediction of new crystals."""

from __future__ import annotations

from dataclasses import dataclass

from crysatom.config.base import Group
from crysatom.config.checks import require
from crysatom.config.groups import Limits, Store, Workers


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Group):
    """Predict a property of new crystals with saved models.

    Up to 128 crystals are always predicted in this process. Ray takes half a minute to start: it pays from some 10,000
    crystals on, with four workers or more.
    """

    inputs: tuple[str, ...]
    """CIF files, folders of CIFs, crystal tables (.parquet), or any other source that the ingest job reads."""

    model: tuple[str, ...] = ()
    """Folder of a run or of its model, runs:/ID or the ID alone, models:/NAME/VERSION, models:/NAME@ALIAS, or a
    .pth.tar of CGCNN's code. Give it several times for the mean and spread of several models of one property."""

    out: str = "predictions.csv"
    """File for the predictions, replaced if it is there; what is rejected goes to NAME.quarantine.csv beside it."""

    limits: Limits = Limits()
    workers: Workers = Workers(num_workers=0)
    tracking: Store = Store()

    def __post_init__(self) -> None:
        require(bool(self.inputs), "say what to predict: CIF files, folders, crystal tables or other sources")
        require(bool(self.model), "say by which model to predict: --model, the folder of a run for instance")
        require(self.out.endswith(".csv"), f"out must name a .csv file, got {self.out!r}")
