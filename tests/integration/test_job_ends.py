"""Exit of whole jobs: interrupted, closed pipe, unreachable cluster; and terminal output from untrusted files."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.faults.world import wait_for
from tests.small_runs import make_shards
from tests.unit.broken_inputs import cif

OURS = {"PYTHONPATH", "RAY_ADDRESS", "CRYSATOM_HOME", "MLFLOW_TRACKING_URI"}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in OURS}
NACL = cif("Na Na1 0 0 0 1\nCl Cl1 0.5 0.5 0.5 1\n")
TINY = ("--num-workers", "0", "--batch-size", "5", "--embedding-dim", "8", "--num-layers", "1", "--register", "")
WAIT_S = 240.0


def command(job: str, *arguments: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / "jobs" / f"{job}.py"), *arguments]


def start(arguments: list[str], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, cwd=cwd, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def pipeline(line: str, cwd: Path) -> tuple[list[int], str]:
    """Run a shell pipeline; return the exit codes of its parts, and standard error."""
    line = f'{line}; echo "${{PIPESTATUS[*]}}" > codes'
    done = subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    return [int(code) for code in (cwd / "codes").read_text().split()], done.stderr


# Ctrl-C


def test_ctrl_c_while_libraries_are_loaded_ends_the_job_in_a_few_words(tmp_path: Path) -> None:
    (tmp_path / "x.cif").write_text(NACL)
    given = command("ingest", "--source", "x.cif", "--out", "table")
    job = start(given, tmp_path)
    maps = Path(f"/proc/{job.pid}/maps")
    wait_for(lambda: job.poll() is not None or "libarrow" in maps.read_text(), "imports")
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=WAIT_S)
    assert (job.returncode, out) == (130, ""), err
    empty, kept, how = err.splitlines()
    assert (empty, kept) == ("", "interrupted; kept: nothing; the table is written at the end")
    assert shlex.split(how.removeprefix("to continue: ")) == given


@pytest.mark.slow
def test_ctrl_c_in_a_training_keeps_its_steps_and_the_command_that_is_told_goes_on(tmp_path: Path) -> None:
    place = tmp_path / 'two words, $HOME & "more"'
    place.mkdir()
    make_shards(place, count=10)
    given = command("pretrain", "--data", str(place / "graphs"), "--name", "it's", "--epochs", "40", *TINY)
    job = start(given, place)
    folder = place / "runs" / "it's"
    wait_for(lambda: job.poll() is not None or list(folder.glob("checkpoints/epoch-*")), "an epoch")
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=WAIT_S)
    assert job.returncode == 130, out + err
    assert "Traceback" not in out + err
    assert "SIGINT: saving after this step, then stopping" in out
    empty, kept, where, how = err.splitlines()
    assert (empty, kept) == ("", "interrupted; kept: graphs and the newest checkpoints")
    newest = where.removeprefix(f"the run is in {folder}, its newest checkpoint ")
    assert (folder / "checkpoints" / newest).is_dir()
    again = how.removeprefix("to continue: ")
    assert shlex.split(again) == [*given, "--resume"]
    codes, said = pipeline(f"{again} > told", place)
    assert (codes, said) == ([0], "")
    told = (place / "told").read_text()
    assert "epoch   1/40" not in told
    assert "epoch  40/40" in told
    [looks] = [line for line in told.splitlines() if "mlflow ui" in line]
    *_, uri = shlex.split(looks.partition("with: ")[2])
    assert uri == f"sqlite:///{place}/mlflow.db"


# nobody reads


def test_a_reader_that_goes_away_ends_a_job_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "x.cif").write_text(NACL)
    ingest = shlex.join(command("ingest", "--source", "x.cif", "--out", "table", "--overwrite"))
    assert pipeline(f"{ingest} | head -1", tmp_path) in [([code, 0], "") for code in (0, 141)]
    assert pipeline(f"{ingest} | true", tmp_path) == ([141, 0], "")
    assert pipeline(f"{ingest} --source absent 2>&1 | true", tmp_path) == ([141, 0], "")
    assert pipeline(f"{ingest} --help | true", tmp_path) == ([141, 0], "")
    assert pipeline(f"{ingest} >&-", tmp_path) == ([0], ""), "a stream that is closed is nobody's"


@pytest.mark.slow
def test_a_training_that_nobody_reads_ends_with_a_checkpoint(tmp_path: Path) -> None:
    make_shards(tmp_path, count=10)
    pretrain = shlex.join(command("pretrain", "--data", "graphs", "--name", "x", "--epochs", "2000", *TINY))
    assert pipeline(f"{pretrain} | head -3", tmp_path) == ([141, 0], "")
    assert list((tmp_path / "runs" / "x" / "checkpoints").glob("*-*"))


# nobody answers


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True])
def test_a_dead_address_of_ray_is_told_within_a_minute(silent: bool, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if not silent:
            server.close()
        begun = time.monotonic()
        done = subprocess.run(
            command("vectors", "--num-workers", "2"),
            cwd=tmp_path,
            env={**ENVIRONMENT, "RAY_ADDRESS": address, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        took = time.monotonic() - begun
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: no Ray answers at RAY_ADDRESS={address} ({address}: "), done.stderr
    assert ("Connection refused" in done.stderr) is not silent
    assert len(done.stderr.splitlines()) == 1
    assert took < 60
    assert not list(tmp_path.rglob("*.parquet")), "before anything was read"


# what a stranger's file says


HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\x08\x9b31m\u202e\u2066"
PLAIN = set("[2J]0;owned31m")


def test_names_and_ids_of_strangers_reach_the_terminal_as_text(tmp_path: Path) -> None:
    place = tmp_path / f"cifs{HOSTILE}"
    place.mkdir()
    (place / f"good{HOSTILE}\nerror: forged.cif").write_text(NACL.replace("data_", f"data_{HOSTILE}"))
    (place / f"bad{HOSTILE}.cif").write_text(f"data_{HOSTILE}\nnothing")
    rows = [f'"good{HOSTILE}\nerror: forged",1', f"absent{HOSTILE},2"]
    (place / "id_prop.csv").write_text("\n".join(rows) + "\n")
    os.close(os.open(os.fsencode(place / "odd") + b"\xff.cif", os.O_CREAT))
    record = {"atoms": {"lattice_mat": 1}, "jid": f"x{HOSTILE}", f"key{HOSTILE}": f"value{HOSTILE}"}
    (tmp_path / f"x{HOSTILE}.json").write_text(json.dumps([record]))
    for source in (place, tmp_path / f"x{HOSTILE}.json", tmp_path / f"absent{HOSTILE}"):
        done = subprocess.run(
            command("ingest", "--source", str(source), "--out", str(tmp_path / f"out{HOSTILE}"), "--overwrite"),
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            timeout=WAIT_S,
            check=False,
        )
        said = done.stdout + done.stderr
        assert said
        assert {byte for byte in said if byte < 32 or byte == 127} <= {*b"\n\t"}, said
        assert not set(said.decode()) & (set(HOSTILE) - PLAIN), said
        assert b"\nerror: forged" not in said


@pytest.mark.parametrize("preset", [{"seed": HOSTILE}, {"data": HOSTILE}, {HOSTILE: 1}, {"name": HOSTILE}])
def test_presets_of_strangers_reach_the_terminal_as_text(preset: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(preset))
    given = command("pretrain", "--config", "x.json")
    done = subprocess.run(given, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, timeout=WAIT_S, check=False)
    said = done.stdout + done.stderr
    assert done.returncode in (1, 2)
    assert "owned" in said.decode() or "unknown" in said.decode(), "it names what is wrong"
    assert not {chr(byte) for byte in said if byte < 32} - {"\n", "\t"}, said
    assert not set(said.decode()) & (set(HOSTILE) - PLAIN), said
