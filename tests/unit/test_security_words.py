"""Secrets are not shown, and names do not lead out of their folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crysatom.config import (
    ChemistryConfig,
    DownstreamConfig,
    FewLabelsConfig,
    GridConfig,
    Group,
    PretrainConfig,
    TuneConfig,
    VectorsConfig,
    parse,
)
from crysatom.config.flags import flags_of, recorded
from crysatom.config.secrets import scrubbed, warn_of_passwords, without_password
from crysatom.studies.leaderboard import csv_name

SECRET = "Zq7-marker"  # noqa: S105 - not a real secret


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (f"http://user:{SECRET}@host:5000/x", "http://...@host:5000/x"),
        (f"postgresql+psycopg2://u:{SECRET}@db:5432/mlflow", "postgresql+psycopg2://...@db:5432/mlflow"),
        (f"mysql://u:p@{SECRET}/#@db/mlflow", "mysql://...@db/mlflow"),
        (f"postgresql://db/mlflow?user=u&password={SECRET}", "postgresql://db/mlflow?..."),
        (f"mssql+pyodbc:///?odbc_connect=PWD%3D{SECRET}", "mssql+pyodbc:///?..."),
        (f"http://{SECRET}@host", "http://...@host"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
        ("", ""),
    ],
)
def test_a_uri_is_shown_without_what_is_secret(uri: str, shown: str) -> None:
    assert without_password(uri) == shown
    assert without_password(shown) == shown


@pytest.mark.parametrize(
    "uri",
    [
        f"http://user:{SECRET}@host:5000/x",
        f"postgresql://db/mlflow?user=u&password={SECRET}",
        f"postgresql://u:{SECRET.replace('-', '%2D')}@db/mlflow",
    ],
)
def test_messages_of_others_are_scrubbed_of_a_uris_password(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (f"cannot reach {uri}", f"FATAL: {SECRET} refused", f"('password', '{SECRET}')"):
        assert SECRET not in scrubbed(text, uri)
        assert uri not in scrubbed(text, uri)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert SECRET not in scrubbed(ValueError(text))
        monkeypatch.delenv("MLFLOW_TRACKING_URI")


@pytest.mark.parametrize(
    "name",
    [
        "MP_API_KEY",
        "PMG_MAPI_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "RAY_AUTH_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "PGPASSWORD",
        "MYSQL_PWD",
    ],
)
def test_messages_of_others_are_scrubbed_of_the_environments_secrets(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, SECRET)
    assert scrubbed(f"401: {SECRET} is not known") == "401: ... is not known"


def test_what_says_where_a_secret_is_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/me/token")
    monkeypatch.setenv("MY_TOKEN", "abc")  # too short to be masked
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://mlflow@db/runs")  # a user name is not a secret
    monkeypatch.setenv("PWD", "/home/me/work")
    said = "no /home/me/token, abc in /home/me/work; see mlflow ui"
    assert scrubbed(said) == said


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        (["--tracking-uri", f"http://u:{SECRET}@host"], True),
        ([f"--tracking-uri=http://u:{SECRET}@host"], True),
        (["--tracking-uri", f"postgresql://host/db?password={SECRET}"], True),
        (["--tracking-uri", f"http://{SECRET}@host"], True),
        (["--tracking-uri", "postgresql://mlflow@db/runs"], False),
        (["--tracking-uri", "http://host:5000"], False),
        (["--tracking-uri", "sqlite:////data/a@b.db"], False),
        (["--name", "a@b:c"], False),
    ],
)
def test_a_password_on_the_command_line_is_warned_of(
    flags: list[str], warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_passwords(flags)
    said = capsys.readouterr().err
    assert said.startswith("warning: a URI on the command line holds a password") is warned
    assert SECRET not in said
    parse(PretrainConfig, flags)
    assert ("holds a password" in capsys.readouterr().err) is warned


def test_what_is_kept_of_a_configuration_has_no_password() -> None:
    config = PretrainConfig.of(tracking_uri=f"http://u:{SECRET}@host")
    assert SECRET not in str(recorded(config))
    assert SECRET not in " ".join(flags_of(config))


# names


BAD_NAMES = ["../x", "/x", ".x", "..", "a/b", "a\\b", "a\0b", "a\nb", "\x1b[2J", " x", "x" * 300, "\N{SNOWMAN}" * 100]

CONFIGS: dict[str, Callable[[str], Any]] = {
    "pretrain": lambda name: PretrainConfig.of(name=name),
    "downstream": lambda name: DownstreamConfig.of(name=name),
    "vectors": lambda name: VectorsConfig.of(name=name),
    "tune": lambda name: TuneConfig.of(name=name, space="pretrain"),
    "study": lambda name: ChemistryConfig.of(name=name, vectors=("onehot",)),
    "few_labels": lambda name: FewLabelsConfig.of(name=name),
    "grid": lambda name: GridConfig.of(name=name),
}


@pytest.mark.parametrize("job", CONFIGS)
@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_leads_elsewhere_is_refused_in_one_line(job: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"^name must be the name of one folder or file, without '/'") as refusal:
        CONFIGS[job](name)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("job", CONFIGS)
@pytest.mark.parametrize("name", ["", "a", "mp 2026", "x.y-z_1", "Übung", "x" * 200])
def test_plain_names_are_accepted(job: str, name: str) -> None:
    assert CONFIGS[job](name).output.name == name


def test_a_bad_name_on_the_command_line_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    with pytest.raises(SystemExit):
        parse(PretrainConfig, ["--name", "../x"])
    assert [path.name for path in tmp_path.rglob("*")] == ["deep"]
    assert "Traceback" not in capsys.readouterr().err


def test_every_job_with_a_name_is_tried() -> None:
    import crysatom.config as package

    named = {
        cls
        for cls in vars(package).values()
        if isinstance(cls, type) and issubclass(cls, Group) and "name" in cls.names()
    }
    assert {type(make("a")) for make in CONFIGS.values()} == named


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_property_of_such_a_name_makes_no_file(name: str) -> None:
    with pytest.raises(ValueError, match=r"^a property must be the name of one folder or file"):
        csv_name(name)
