"""Trials of a search for a predictor share vectors, and each may have a spectrum of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crysatom.config import Choice, SearchSpace, TuneConfig
from crysatom.sweeps.sweep import base_config, probe_config
from crysatom.sweeps.trial import Prediction
from tests.small_regressions import tiny, volumes


@pytest.mark.parametrize("scale", ["rms", "standardize", "none"])
def test_a_trial_reads_what_a_training_with_its_settings_reads(tmp_path: Path, scale: str) -> None:
    kept = {"vectors": "onehot92", "vector_scale": scale}
    data = volumes(tmp_path, tiny(**kept))
    shared = Prediction(name="x", task=data.task, epochs=frozenset({1}), elements=data.trained_elements)
    for power in (-2.0, 0.5):
        config = tiny(**kept, vector_spectrum=power)
        alone = volumes(tmp_path, config).task.vectors
        found = shared.task_of(config.vectors).vectors
        np.testing.assert_allclose(found.vectors, alone.vectors, atol=1e-4)
        assert found.provenance["spectrum"] == alone.provenance["spectrum"]
    assert shared.task_of(tiny(**kept).vectors) is data.task


def test_the_spectrum_of_all_trials_is_fixed_or_given() -> None:
    def base(fixed: dict[str, Any], **flags: Any) -> Any:
        space = SearchSpace(objective="downstream", settings={"lr": Choice((0.1,))}, fixed=fixed)
        return base_config(TuneConfig.of(space="x", **flags), space).flat()["vector_spectrum"]

    assert base({}) == 0
    assert base({}, vector_spectrum="auto") == "auto"
    assert base({"vector_spectrum": -2.0}, vector_spectrum=-1.0) == -2
    searched = SearchSpace(objective="downstream", settings={"vector_spectrum": Choice((-1.0, 0.0))})
    assert base_config(TuneConfig.of(space="x", vector_spectrum=-1.0), searched).flat()["vector_spectrum"] == 0


def test_probes_of_pretrainings_read_the_given_spectrum() -> None:
    space = SearchSpace(objective="pretrain", settings={"lr": Choice((0.1,))})
    config = TuneConfig.of(space="x", vector_spectrum=-1.0)
    base = base_config(config, space)
    assert probe_config(config, base, "density").vectors.vector_spectrum == -1
    with pytest.raises(ValueError, match="vectors for each trial: --vector-spectrum must be a number"):
        base_config(TuneConfig.of(space="x", vector_spectrum="auto"), space)
