"""The probe of a sweep does not change the pretraining, and uses no test crystal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crysatom.config import DownstreamConfig
from crysatom.inputs.labels import Labeled
from crysatom.names import PROBE, TEST, VAL
from crysatom.sweeps.probe import CRYSTAL, PROBE_CSV, STOP, Probe
from crysatom.sweeps.sweep import validation_errors
from crysatom.training.context import Metrics, PlainContext
from crysatom.training.metrics import mae_over_mad
from crysatom.training.pretrain import PretrainOutcome, pretrain
from crysatom.vectors.table import AtomVectors
from tests.small_regressions import tiny as tiny_predictor
from tests.small_regressions import volumes
from tests.small_runs import CPU, comparable, data_of, one_thread, tiny  # noqa: F401 - a fixture

CONFIG = tiny()
PREDICTOR = tiny_predictor(selection="last", seeds=(0, 1), epochs=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Labeled:
    return volumes(tmp_path_factory.mktemp("probe"), PREDICTOR)


def probe_of(data: Labeled, folder: Path, config: DownstreamConfig = PREDICTOR) -> Probe:
    folder.mkdir(parents=True, exist_ok=True)
    task = dataclasses.replace(data.task, parts={k: v for k, v in data.task.parts.items() if k != TEST})
    return Probe(
        config=config,
        tasks={"volume_per_atom": task},
        elements={"volume_per_atom": data.trained_elements},
        epochs=frozenset({2, 4}),
        folder=folder,
    )


def trained(data: Labeled, folder: Path, watch: Callable[..., bool] | None = None) -> PretrainOutcome:
    return pretrain(CONFIG, data_of(CONFIG, data.task.shards), PlainContext(folder / "checkpoints"), watch)


def test_a_probe_changes_nothing_of_the_pretraining(data: Labeled, tmp_path: Path) -> None:
    alone = trained(data, tmp_path / "alone")
    probe = probe_of(data, tmp_path / "watched")
    watched = trained(data, tmp_path / "watched", partial(probe.watch, CPU))
    np.testing.assert_array_equal(watched.vectors.vectors, alone.vectors.vectors)
    assert [PROBE in epoch for epoch in watched.history] == [False, True, False, True]
    losses = [{k: v for k, v in epoch.items() if "probe" not in k} for epoch in watched.history]
    assert comparable(losses) == comparable(alone.history)
    # the last one is for the final vectors
    assert probe.measure(watched.vectors, CPU)[PROBE] == watched.history[-1][PROBE]


def test_the_score_is_the_mean_of_the_errors_that_trials_are_compared_by(data: Labeled, tmp_path: Path) -> None:
    probe = probe_of(data, tmp_path)
    vectors = data.task.vectors
    metrics = probe.measure(vectors, CPU)
    rows = pd.read_csv(tmp_path / PROBE_CSV)
    assert set(rows[CRYSTAL]) == set(data.task.parts[VAL]), "and none of the test set"
    each = [
        mae_over_mad(seed["target"], seed["prediction"])
        for _, seed in rows.groupby(np.arange(len(rows)) // len(set(rows[CRYSTAL])))
    ]
    assert metrics[PROBE] == pytest.approx(np.mean(each))
    assert len(each) == len(PREDICTOR.seeds)
    assert validation_errors(tmp_path / PROBE_CSV).mean() == pytest.approx(metrics[PROBE])


def test_a_trial_that_is_told_to_stop_ends_after_the_epoch(data: Labeled, tmp_path: Path) -> None:
    probe = probe_of(data, tmp_path)

    def watch(metrics: Metrics, vectors: Callable[[], AtomVectors]) -> bool:
        if metrics["epoch"] == 1:
            (tmp_path / STOP).touch()
        return probe.watch(CPU, metrics, vectors)

    outcome = trained(data, tmp_path, watch)
    assert [epoch["epoch"] for epoch in outcome.history] == [0, 1]
    assert outcome.vectors.dim == CONFIG.encoder.embedding_dim
