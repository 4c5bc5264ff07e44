"""Exit of a job's process."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

import bootstrap
from crysatom.config import IngestConfig, parse
from crysatom.training.loop import NonFiniteLossError


@pytest.fixture(autouse=True)
def _own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    monkeypatch.setattr(sys, "argv", ["jobs/x.py"])
    yield
    for number, answer in before.items():
        signal.signal(number, answer)


def code_of(main: Callable[[], int | None], kept: str = "nothing", *, resumes: bool = False) -> int | None:
    with pytest.raises(SystemExit) as end:
        bootstrap.run(main, kept, resumes=resumes)
    assert end.value.code is None or isinstance(end.value.code, int)
    return end.value.code


def signaled(number: int) -> NoReturn:
    os.kill(os.getpid(), number)
    time.sleep(10)
    raise AssertionError("still here")


def signaled_while_ray_waits() -> NoReturn:
    """Ray's Cython turns any SystemExit of a signal handler into exit code 1."""
    try:
        signaled(signal.SIGTERM)
    except SystemExit:
        sys.exit(1)


def interrupted_in_somebodys_code() -> NoReturn:
    try:
        signaled(signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("cannot import") from None


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def main() -> NoReturn:
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "code"),
    [
        (lambda: None, None),
        (lambda: 3, 3),
        (lambda: sys.exit("error: of the user"), 1),
        (lambda: sys.exit(2), 2),
        (lambda: signaled(signal.SIGTERM), 143),
        (signaled_while_ray_waits, 143),
        (lambda: signaled(signal.SIGINT), 130),
        (interrupted_in_somebodys_code, 130),
        (raising(KeyboardInterrupt()), 130),
    ],
)
def test_the_exit_code_says_how_a_job_ended(main: Callable[[], int | None], code: int | None) -> None:
    assert code_of(main) == code


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no such data"), "error: no such data\n"),
        (ValueError("first\n  second\n"), "error: first; second\n"),
        (NonFiniteLossError("the loss is nan"), "error: the loss is nan\n"),
        (PermissionError(13, "Permission denied", "/x/y"), "error: /x/y: Permission denied\n"),
        (ConnectionRefusedError("nobody there"), "error: nobody there\n"),
        (MemoryError(), "error: MemoryError\n"),
        (ValueError(), "error: ValueError\n"),
        (ValueError("id \x1b[2Jx\u202e"), "error: id \\x1b[2Jx\\u202e\n"),
        (SystemExit("error: unknown \x9b in a preset"), "error: unknown \\x9b in a preset\n"),
    ],
)
def test_an_error_is_told_in_one_line(error: BaseException, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(raising(error)) == 1
    assert capsys.readouterr() == ("", said)


def test_an_error_of_a_broken_installation_names_the_interpreter(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401

    assert code_of(main) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: No module named 'no_such_package'; is /")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), AssertionError("x"), NotImplementedError("x")])
def test_a_bug_shows_its_traceback_and_asks_for_a_report(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(raising(error)) == 70
    traceback, _, last = capsys.readouterr().err.rstrip().rpartition("\n")
    assert traceback.startswith("Traceback")
    assert last.startswith(f"error: this is a bug of crysatom ({type(error).__name__}: ")
    assert "please report it" in last


def test_debug_shows_the_traceback_of_any_error_and_is_no_flag_of_the_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs/ingest.py", "--debug", "--out", "x"])

    def main() -> None:
        assert parse(IngestConfig) == IngestConfig.of(out="x")
        raise ValueError("of the user")

    assert code_of(main) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("\nerror: of the user\n")


def test_passwords_are_not_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    uri, secret = "http://u:Zq7-marker@host", "Zq8-marker"
    monkeypatch.setattr(sys, "argv", ["jobs/x.py", f"--tracking-uri={uri}", "--debug"])
    monkeypatch.setenv("MP_API_KEY", secret)
    code_of(raising(RuntimeError(f"cannot reach {uri} with {secret}")))
    code_of(raising(KeyError(f"{uri} {secret}")))
    code_of(raising(KeyboardInterrupt()))
    said = capsys.readouterr().err
    assert "cannot reach http://...@host with ..." in said
    assert "Zq" not in said


@pytest.mark.parametrize("name", ["plain", "two words", "it's", "$HOME", "a\\b", 'say "so"', "*", "~", "#x", ""])
@pytest.mark.parametrize("given", [[], ["--resume"]])
def test_ctrl_c_says_what_is_kept_and_gives_a_command_that_survives_a_shell(
    name: str, given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs/pretrain.py", "--name", name, *given])
    interrupt = KeyboardInterrupt()
    interrupt.add_note("the run is in /x")
    assert code_of(raising(interrupt), "checkpoints", resumes=True) == 130
    first, kept, note, command = capsys.readouterr().err.splitlines()
    assert (first, kept, note) == ("", "interrupted; kept: checkpoints", "the run is in /x")
    assert command.startswith("to continue: ")
    _, *arguments = shlex.split(command.removeprefix("to continue: "))
    assert arguments == ["jobs/pretrain.py", "--name", name, "--resume"]
