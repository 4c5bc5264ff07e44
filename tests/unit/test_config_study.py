"""Flags of the study job, and the registry that it looks studies up in."""

from __future__ import annotations

from typing import get_args

import pytest

from crysatom.config import StudyConfig, parse
from crysatom.names import Study
from crysatom.pipelines.studies import STUDIES


def test_tables_are_named_or_name_themselves() -> None:
    flags = ["--study", "chemistry", "--vectors", "ours=runs/a=b/vectors", "random:0", "./a=b/c", "models:/m/1"]
    config = parse(StudyConfig, flags)
    assert config.tables == (
        ("ours", "runs/a=b/vectors"),
        ("random:0", "random:0"),
        ("./a=b/c", "./a=b/c"),
        ("models:/m/1", "models:/m/1"),
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "say what to compare"),
        (["--vectors", "onehot", "a=random", "a=onehot92"], "two tables are called a"),
        (["--vectors", "onehot", "--draws", "10"], "draws must be at least 99"),
        (["--vectors", "onehot", "--seed", "-1"], "seed must not be negative"),
    ],
)
def test_what_is_wrong_is_named(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(StudyConfig, flags)
    captured = capsys.readouterr()
    assert message in captured.out + captured.err


def test_every_study_is_there() -> None:
    assert set(STUDIES) == set(get_args(Study))
