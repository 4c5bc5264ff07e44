"""The README's commands from crystals to predictions, unchanged, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crysatom.models.inference import open_model
from crysatom.names import MAE, TEST
from tests.conftest import REPOSITORY

HEADING = "## From crystals to predictions"


def commands() -> list[str]:
    section = (REPOSITORY / "README.md").read_text().split(HEADING)[1]
    [block, *_] = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    return block.replace("\\\n", "").splitlines()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_four_commands_lead_to_predictions(tmp_path: Path) -> None:
    (tmp_path / "jobs").symlink_to(REPOSITORY / "jobs")
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "RAY_ADDRESS", "MLFLOW_TRACKING_URI"}}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    found = commands()
    assert len(found) == 4
    said = ""
    for command in found:
        shell = ["bash", "-c", command]
        done = subprocess.run(
            shell, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        said += done.stdout
    assert "registered as models:/crysatom-density-cgcnn/1" in said
    assert "read 288 = predicted 288 + rejected 0" in said
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert len(table) == 288
    assert np.isfinite(table["prediction"]).all()
    assert (table["property"].unique().tolist(), table["unit"].unique().tolist()) == (["density"], ["g/cm^3"])
    of_the_run = pd.read_csv(tmp_path / "runs" / "density-seed0" / "predictions.csv").set_index("material_id")
    again = table.set_index("material_id").loc[of_the_run.index, "prediction"]
    np.testing.assert_allclose(again, of_the_run["prediction"], rtol=1e-5)
    model = open_model(tmp_path / "runs" / "density-seed0")
    assert (model.property, model.trained is not None) == ("density", True)
    reported = json.loads((tmp_path / "runs" / "density-seed0" / "results.json").read_text())["metrics"]
    assert reported[f"{TEST}/{MAE}"] == pytest.approx((of_the_run["prediction"] - of_the_run["target"]).abs().mean())
