"""Groups of settings: flat names, roles, and digests that no change of the groups may touch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from crysatom import config
from crysatom.config import (
    ChemistryConfig,
    DownstreamConfig,
    FeaturizeConfig,
    FewLabelsConfig,
    GridConfig,
    Group,
    IngestConfig,
    PredictConfig,
    PretrainConfig,
    ReportConfig,
    Role,
    TuneConfig,
    VectorsConfig,
    digest,
    recorded,
)
from crysatom.config.base import reads
from crysatom.config.downstream import RECIPES
from crysatom.config.predictors import SETTINGS

GOLDEN = Path(__file__).parents[1] / "golden" / "digests.json"
"""Digests of the first release with flat configurations: run folders of that time are still found."""

JOBS = [
    ChemistryConfig,
    DownstreamConfig,
    FeaturizeConfig,
    FewLabelsConfig,
    GridConfig,
    IngestConfig,
    PredictConfig,
    PretrainConfig,
    ReportConfig,
    TuneConfig,
    VectorsConfig,
]


@dataclass(frozen=True, kw_only=True)
class Inner(Group):
    a: int = 1
    b: str = reads("x")


@dataclass(frozen=True, kw_only=True)
class Outer(Group):
    inner: Inner = Inner(a=2)
    c: float = 0.5


def test_settings_are_flat_outside() -> None:
    made = Outer.of(a=5, c=1.0)
    assert (made.inner.a, made.inner.b, made.c) == (5, "x", 1.0)
    assert made.flat() == {"a": 5, "b": "x", "c": 1.0}
    assert made.replace(b="y", c=2.0) == Outer(inner=Inner(a=5, b="y"), c=2.0)
    assert Outer.of().inner.a == 2, "a group's default in its configuration, not that of its class"


def test_roles_are_of_groups_or_of_fields() -> None:
    assert Outer.names(Role.RESULT) == {"a", "c"}
    assert Outer.names(Role.INPUT) == {"b"}
    assert Outer.of().flat(Role.INPUT, Role.PLACE) == {"b": "x"}


@pytest.mark.parametrize("make", [Outer.of, Outer().replace])
def test_an_unknown_setting_is_named(make: type[Outer]) -> None:
    with pytest.raises(TypeError, match="Outer has no setting d, e"):
        make(d=1, e=2)


def test_two_settings_of_one_name_are_a_mistake() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Twice(Group):
        inner: Inner = Inner()
        a: int = 3

    globals()["Twice"] = Twice
    with pytest.raises(AssertionError, match="two settings of one name"):
        Twice.settings()


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_flat_names(job: type[Group]) -> None:
    assert len(job.settings()) > 3


@pytest.mark.parametrize("name", json.loads(GOLDEN.read_text()))
def test_digests_are_those_of_flat_configurations(name: str) -> None:
    assert digests()[name] == json.loads(GOLDEN.read_text())[name], (
        "the setting of a result, or a default, has changed: users' unfinished runs of these settings are no longer "
        f"found. If that is wanted, say so in the CHANGELOG and write {GOLDEN.name} again: "
        "PYTHONPATH=platform python -m tests.unit.test_config_base"
    )


def test_the_data_may_lie_elsewhere() -> None:
    here, there = (PretrainConfig.of(data=data, out=data, num_workers=2) for data in ("a", "b"))
    assert digest(here) == digest(there)
    assert recorded(here)["data"] == "a"


def test_the_default_precision_is_not_in_the_digest() -> None:
    """It was the only one when the oldest runs were made."""
    assert digest(PretrainConfig.of(precision="float32")) == digest(config.default())
    assert digest(PretrainConfig.of(precision="bf16")) != digest(config.default())


def test_the_spectrum_of_vectors_as_given_is_not_in_the_digest() -> None:
    """Runs were made before there was a choice."""
    assert digest(DownstreamConfig.of(vector_spectrum=0.0)) == digest(DownstreamConfig.of())
    assert len({digest(DownstreamConfig.of(vector_spectrum=power)) for power in (-1.0, -2.0, 0.0)}) == 3


def digests() -> dict[str, str]:
    other = {"epochs": 3, "node_features": "x.csv", "cutoff": 6.0, "loader": "streamed", "memory_gb": 3.0}
    elsewhere = {"data": "x", "out": "y", "num_workers": 4}
    found: dict[str, Group] = {
        "pretrain": config.default(),
        "pretrain_paper": config.paper(),
        "pretrain_other": PretrainConfig.of(**other, **elsewhere),
        "down_other": DownstreamConfig.of(
            predictor="crysxpp",
            predictor_options={"a": 1.0},
            seeds=(1, 2),
            split="held_out_elements:Fe",
            vectors="random:1",
            init_encoder="x",
            distill_weight=0.2,
            targets="t.csv",
            name="n",
            experiment="e",
        ),
        "tune": TuneConfig.of(space="ssl_loss", properties=("a",), max_concurrent=3, epochs=2),
        "vectors": VectorsConfig.of(method="atom2vec", dim=8),
        "chem": ChemistryConfig.of(vectors=("onehot",), draws=99),
    }
    for predictor in ("cgcnn", "crysxpp", *SETTINGS):
        found[f"down_{predictor}"] = RECIPES["default"](predictor)
        found[f"down_paper_{predictor}"] = RECIPES["paper"](predictor)
    return {name: digest(made) for name, made in found.items()}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(digests(), indent=1, sort_keys=True) + "\n")
