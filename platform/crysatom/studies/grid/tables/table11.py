"""Time, memory and size of predictors: the paper's Table 11."""

from __future__ import annotations

from crysatom.studies.grid.common import PREDICTOR_LABELS
from crysatom.studies.grid.design import Column, Grid

EPOCHS = 1000
"""Of a prediction, by the paper's Table 2."""


def _paper(
    *, seconds_per_epoch: float, training_hours: float, test_seconds: float, megabytes: float
) -> dict[str, float]:
    return {
        "epochs": EPOCHS,
        "seconds_per_epoch": seconds_per_epoch,
        "training_seconds": training_hours * 3600,
        "test_seconds": test_seconds,
        "megabytes": megabytes,
    }


FIGURES = {
    "cgcnn": _paper(seconds_per_epoch=0.189, training_hours=3.12, test_seconds=0.04, megabytes=1.1),
    "crysxpp": _paper(seconds_per_epoch=0.195, training_hours=3.25, test_seconds=0.07, megabytes=1.1),
    "alignn": _paper(seconds_per_epoch=140.4, training_hours=39.0, test_seconds=80.4, megabytes=97.8),
    "matformer": _paper(seconds_per_epoch=80.4, training_hours=22.0, test_seconds=1.04, megabytes=68.42),
    "potnet": _paper(seconds_per_epoch=42.0, training_hours=11.0, test_seconds=31.0, megabytes=42.9),
}
"""On an A6000 and an A100. The seconds per epoch of the first two must be minutes: 1,000 of them make the hours."""


def grid() -> Grid:
    """Return a column per predictor, all on our vectors."""
    columns = {
        name: Column(label=f"{label} (CrysAtom)", vectors="ours", predictor=name)
        for name, label in PREDICTOR_LABELS.items()
    }
    return Grid(
        title="Time, memory and size (Table 11)",
        columns=columns,
        properties=("formation_energy_peratom",),
        note="The paper's 0.189 and 0.195 s per epoch must be minutes: 1,000 epochs took it 3.12 and 3.25 hours.",
        one_property=True,
        costs=FIGURES,
    )
