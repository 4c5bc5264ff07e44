"""Flags of the predict job: inputs are positional, and each ``--model`` takes one name."""

from __future__ import annotations

import pytest

from crysatom.config import PredictConfig, parse


def test_inputs_are_positional_and_models_repeated() -> None:
    config = parse(PredictConfig, ["--model", "a", "--model", "b", "one.cif", "more", "--out", "p.csv"])
    assert (config.inputs, config.model, config.out) == (("one.cif", "more"), ("a", "b"), "p.csv")
    assert config.workers.num_workers == 0, "Ray is started by those who ask for it"
    config = parse(PredictConfig, ["one.cif", "--model", "a", "--num-workers", "2"])
    assert (config.inputs, config.model, config.workers.num_workers) == (("one.cif",), ("a",), 2)


@pytest.mark.parametrize(
    ("arguments", "message"), [(["one.cif"], "give a model"), (["--model", "a"], "give the crystals")]
)
def test_what_is_missing_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(PredictConfig, arguments)
    captured = capsys.readouterr()
    assert message in captured.out + captured.err
