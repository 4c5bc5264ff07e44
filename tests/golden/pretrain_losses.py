"""Golden losses: the first 20 steps of a small pretraining in float64, which no refactoring may change.

After an intended change (or with a new pymatgen with other crystals), write them again and give the reason in the
commit:

    PYTHONPATH=platform python -m tests.golden.pretrain_losses
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor
from torch_geometric.data import Batch

from crysatom.config import FeaturizeConfig, PretrainConfig
from crysatom.graphs.featurize import featurize_plain
from crysatom.names import LOSS_TERMS
from crysatom.nn.bases import gaussian_centers
from crysatom.training.context import PlainContext
from crysatom.training.loop import Loop
from crysatom.training.pretrain import build
from crysatom.vectors.elements import element_features
from tests.graph_crystals import prototypes, write_table
from tests.small_runs import data_of

STEPS = 20
FILE = Path(__file__).with_suffix(".txt")
HEADER = "# step " + " ".join(LOSS_TERMS)

CONFIG = PretrainConfig.of(
    embedding_dim=16, num_layers=3, projection_dim=8, batch_size=8, epochs=7, holdout_fraction=0.0, num_workers=0
)


def losses() -> list[list[float]]:
    """Return the terms of the loss of each step."""
    steps: list[list[float]] = []

    def record(batch: Batch, terms: dict[str, Tensor], first: bool) -> None:  # noqa: ARG001
        steps.append([terms[name].item() for name in LOSS_TERMS])

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "crystals.parquet", [c for c in prototypes() if len(c.atomic_numbers) <= 8][:24])
        featurize_plain(FeaturizeConfig.of(data=str(folder / "crystals.parquet"), out=str(folder / "graphs")))
        data = data_of(CONFIG, folder / "graphs")
        model: Any = build(CONFIG, element_features(CONFIG.encoder.node_features)).double()
        model.encoder.centers = gaussian_centers(CONFIG.graph.cutoff)
        Loop(model, data.train, None, CONFIG.optimization, PlainContext(folder / "run"), after_step=record).run()
    return steps[:STEPS]


def read() -> list[list[float]]:
    """Return the golden losses."""
    lines = FILE.read_text().splitlines()
    assert lines[0] == HEADER
    return [[float(value) for value in line.split()[1:]] for line in lines[1:]]


def write() -> None:
    """Write the losses of the current code."""
    lines = [" ".join([str(step), *(f"{value:.12g}" for value in row)]) for step, row in enumerate(losses())]
    FILE.write_text("\n".join([HEADER, *lines]) + "\n")


if __name__ == "__main__":
    write()
