"""Several processes start at once on a fresh machine: one wins, and nothing is destroyed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pymatgen.core import Structure

from crysatom.config import FeaturizeConfig, PretrainConfig
from crysatom.crystals.ingest import ingest_plain
from crysatom.graphs.featurize import run
from crysatom.graphs.shard_task import ShardRecord, ShardTask, make_shard
from crysatom.graphs.shards import shard_files
from crysatom.runs.folder import RunFolder
from tests.at_once import at_once

WON = "won"
held = ExitStack()
"""Claims that last until the process ends."""


def claim(number: int, folder: Path) -> str:
    """Claim a run with a configuration of its own; the lock is held until the process ends."""
    try:
        held.enter_context(RunFolder(folder / "run").claimed(PretrainConfig.of(seed=number), "data"))
    except ValueError as error:
        return str(error)
    return WON


def resume(number: int, folder: Path) -> str:
    """Resume a featurization; its shards take a while, so that both processes overlap."""

    def map_shards(tasks: list[ShardTask]) -> Iterator[ShardRecord]:
        (folder / f"maker-{number}").touch()
        time.sleep(0.3)
        yield from map(make_shard, tasks)

    config = FeaturizeConfig.of(data=str(folder / "cifs"), out=str(folder / "graphs"), resume=True)
    try:
        report = run(config, ingest_plain, map_shards)
    except ValueError as error:
        return str(error)
    assert report.accepted == 1
    return WON


Answers = dict[Path, list[str]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Answers of two processes for each folder; the same two for all, since imports take seconds."""
    claimed = [tmp_path_factory.mktemp("claimed") for _ in range(60)]
    resumed = [tmp_path_factory.mktemp("resumed") for _ in range(3)]
    for folder in resumed:
        (folder / "cifs").mkdir()
        Structure([[4, 0, 0], [0, 4, 0], [0, 0, 4]], ["Po"], [[0, 0, 0]]).to(str(folder / "cifs" / "po.cif"))
    said = at_once(2, [*((claim, folder) for folder in claimed), *((resume, folder) for folder in resumed)])
    return dict(zip([*claimed, *resumed], said, strict=True))


def winners(answers: Answers, kind: str, refusal: str) -> Iterator[tuple[Path, int]]:
    """Yield each folder of a kind with its winner; the other process must have been rejected."""
    for folder, said in answers.items():
        if folder.name.startswith(kind):
            assert said.count(WON) == 1, said
            winner = said.index(WON)
            assert said[1 - winner].startswith(refusal.format(folder))
            yield folder, winner


def test_of_two_claims_of_one_name_one_wins(answers: Answers) -> None:
    won = list(
        winners(answers, "claimed", "another process is at work in {}/run; wait for it, or give this run another")
    )
    assert len(won) == 60
    for folder, winner in won:
        note = json.loads((folder / "run" / "run.json").read_text())
        assert note["config"]["seed"] == winner, "the other has written nothing"


def test_of_two_that_resume_a_featurization_one_does_it(answers: Answers) -> None:
    won = list(winners(answers, "resumed", "another process is making graphs in {}/graphs; wait for it, or choose"))
    assert len(won) == 3
    for folder, winner in won:
        assert [path.name for path in folder.glob("maker-*")] == [f"maker-{winner}"]
        assert not (folder / "graphs" / ".progress").exists()
        assert len(shard_files(folder / "graphs", verify=True)) == 1
