"""Flags of the study job, which depend on the study."""

from __future__ import annotations

import pytest

from crysatom.config import ChemistryConfig, GridConfig, parse, parse_study


def test_tables_are_named_or_name_themselves() -> None:
    flags = ["--study", "chemistry", "--vectors", "ours=runs/a=b/vectors", "random:0", "./a=b/c", "models:/m/1"]
    config = parse(ChemistryConfig, flags)
    assert config.tables == (
        ("ours", "runs/a=b/vectors"),
        ("random:0", "random:0"),
        ("./a=b/c", "./a=b/c"),
        ("models:/m/1", "models:/m/1"),
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give the tables to compare"),
        (["--vectors", "onehot", "a=random", "a=onehot92"], "two tables are called a"),
        (["--vectors", "onehot", "--draws", "10"], "draws must be at least 99"),
        (["--vectors", "onehot", "--seed", "-1"], "seed must not be negative"),
    ],
)
def test_what_is_wrong_is_named(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(ChemistryConfig, flags)
    captured = capsys.readouterr()
    assert message in captured.out + captured.err


def test_the_study_decides_what_flags_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_study(["--study", "chemistry", "--vectors", "onehot"]) == ChemistryConfig.of(vectors=("onehot",))
    assert parse_study(["--table", "9", "--seeds", "4"]) == GridConfig.of(study="table9", seeds=(4,))
    assert parse_study([]) == GridConfig.of()
    assert parse_study(["--study", "a/mine.py"]).study == "a/mine.py"
    for flags, message in (
        (["--table", "9", "--study", "table9"], "not both"),
        (["--study", "chemistry", "--seeds", "4"], "--seeds"),
    ):
        with pytest.raises(SystemExit) as ended:
            parse_study(flags)
        captured = capsys.readouterr()
        assert message in captured.out + captured.err + str(ended.value)
