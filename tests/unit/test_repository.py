"""Rules of the repository as a whole."""

from __future__ import annotations

import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

from crysatom.names import __version__

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 500
MAX_WIDTH = 120


def _source_files() -> list[Path]:
    folders = ("platform", "jobs", "tune_spaces", "tests", "benchmarks", "tools")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_no_file_is_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in _source_files()}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_prose_of_markdown_is_narrow() -> None:
    """Outside code fences, tables and lines that are one link, which cannot be wrapped."""
    pages = _pages()
    assert len(pages) > 20
    wide = {str(page.relative_to(ROOT)): _wide_prose(page.read_text(encoding="utf-8")) for page in pages}
    assert {page: lines for page, lines in wide.items() if lines} == {}


def _wide_prose(markdown: str) -> list[int]:
    """Return the numbers of lines that could be wrapped and were not."""
    found, fenced = [], False
    for number, line in enumerate(markdown.splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        bare = line.startswith("|") or re.fullmatch(r"\s*([-*] )?<?(\[[^]]*\]\()?https?://\S+", line)
        if len(line) > MAX_WIDTH and not fenced and not bare:
            found.append(number)
    return found


def test_wide_prose_is_seen() -> None:
    wide = "word " * 25
    assert _wide_prose(
        f"{wide}\n\n```\n{wide}\n```\n| {wide} |\n- https://x.org/{'y' * 120}\n- {wide}\n    {wide}"
    ) == [1, 8, 9]


def test_platform_folder_is_no_package() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists(), "it would hide Python's own module 'platform'"


def test_standard_platform_module_works_beside_crysatom() -> None:
    # A new interpreter: in this one the module is already imported.
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'platform')!r}]\n"
        "import crysatom, platform\n"
        "print(platform.system() == {'linux': 'Linux', 'darwin': 'Darwin', 'win32': 'Windows'}[sys.platform])\n"
        "print(crysatom.__file__)"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert output.splitlines() == ["True", str(ROOT / "platform" / "crysatom" / "__init__.py")]


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "crysatom.names.__version__"}
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert cited[1] == __version__


def test_constraints_name_exact_public_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    inexact = [line for line in lines if not re.fullmatch(r"(#.*)?|[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)]
    assert inexact == []


def test_every_direct_dependency_is_constrained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    direct = {_normalize(re.split(r"[\[<>=]", item)[0]) for group in groups for item in group} - {"crysatom"}
    constrained = {_normalize(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert direct - constrained == set()


def _normalize(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


def test_the_targets_of_make_run_each_test_once() -> None:
    kinds: list[set[str]] = [set(), {"slow"}, {"ray"}, {"slow", "ray"}]

    def runs(*targets: str) -> list[set[str]]:
        """Return the kinds of tests that targets run, in the order of ``kinds``."""
        command = ["make", "--dry-run", "--always-make", *targets]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        chosen = [Expression.compile(marks) for marks in re.findall(r'-m pytest .*?-m "([^"]+)"', done.stdout)]
        assert len(chosen) == 2 * len(targets)
        return [kind for kind in kinds for marks in chosen if marks.evaluate(lambda name: name in kind)]  # noqa: B023

    assert runs("test", "test-slow") == kinds
    assert runs("test-all") == kinds


def test_readme_names_only_targets_that_make_knows() -> None:
    readme = ROOT / "README.md"
    assert readme.exists()
    named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(_code(readme.read_text()))))
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named - known == set()


def _code(markdown: str) -> list[str]:
    """Return the content of code blocks and of backquotes."""
    return re.findall(r"```.*?```|`[^`\n]+`", markdown, re.DOTALL)


def _pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])


_PATH = re.compile(r"(?<![\w/.<~-])((?:\.\./)?(?:[A-Za-z_]+/)+)(\w+\.(?:py|toml|yaml|sh|j2|css))\b")
_FOLDERS = ("", "platform", "platform/crysatom", "tests", "benchmarks")
_PLACEHOLDERS = {"NAME.py", "x.py"}


def _missing_paths(page: Path) -> list[str]:
    """Return the paths of source files in a page that lead nowhere, from the page or from a folder of code."""
    return [
        folder + name
        for folder, name in _PATH.findall(page.read_text(encoding="utf-8"))
        if name not in _PLACEHOLDERS
        and folder + name != "platform/__init__.py"  # which must not exist
        and not any((start / folder / name).is_file() for start in (page.parent, *(ROOT / f for f in _FOLDERS)))
    ]


def _missing_names(text: str) -> list[str]:
    """Return the dotted names in ``crysatom`` that are neither modules nor their attributes."""
    names = re.findall(r"(?<![\w/@-])(crysatom(?:\.[A-Za-z_]\w*)+)(?![\w/-])", text)
    for module, imported in re.findall(r"^ *from (crysatom[\w.]*) import ([\w, ]+)$", text, re.MULTILINE):
        names += [f"{module}.{name.strip()}" for name in imported.split(",")]
    return [name for name in names if not _exists(name)]


def _exists(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_markdown_names_only_modules_and_files_that_exist() -> None:
    paths = {page.name: _missing_paths(page) for page in _pages()}
    names = {page.name: _missing_names(page.read_text(encoding="utf-8")) for page in _pages()}
    assert {page: found for page, found in paths.items() if found} == {}
    assert {page: found for page, found in names.items() if found} == {}


def test_wrong_names_in_markdown_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`jobs/pretrain.py`, `ssl/views.py`, `jobs/absent.py`, `crysatom/training/tracked.py`, `cluster/NAME.py`\n"
        "`crysatom.training.loop.Loop`, `crysatom.training.tracked`, `crysatom.names.ABSENT`, `crysatom.dev/gpu`\n"
        "    from crysatom.config import digest, absent\n"
    )
    assert _missing_paths(page) == ["jobs/absent.py", "crysatom/training/tracked.py"]
    assert _missing_names(page.read_text()) == [
        "crysatom.training.tracked",
        "crysatom.names.ABSENT",
        "crysatom.config.absent",
    ]


def test_python_in_markdown_runs() -> None:
    blocks = [block for page in _pages() for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    assert blocks
    for block in blocks:
        exec(compile(block, "markdown", "exec"), {})  # noqa: S102 - our own pages


def test_every_folder_of_the_package_is_described() -> None:
    packages = {f"{path.parent.name}/" for path in (ROOT / "platform" / "crysatom").glob("*/__init__.py")}
    tree = (ROOT / "README.md").read_text().partition("## Folders")[2].partition("```\n")[2].partition("```")[0]
    layout = (ROOT / "CONTRIBUTING.md").read_text().partition("## Layout")[2].partition("\n## ")[0]
    assert packages - set(re.findall(r"\b\w+/", tree)) == set()
    assert packages - set(re.findall(r"\b\w+/", layout)) == set()


_LIGHT = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    print(ended.code)
else:
    raise AssertionError("nothing ended it")
loaded = {"torch", "ray", "mlflow", "pymatgen"} & sys.modules.keys()
assert not loaded, f"loaded: {loaded}"
"""


def test_models_and_loops_need_neither_pymatgen_nor_ray_nor_mlflow() -> None:
    """Training on existing shards needs only torch, PyG, numpy, pandas and pyarrow."""
    modules = ("training.pretrain", "training.regression", "predictors.registry", "graphs.shards")
    imports = "; ".join(f"import crysatom.{module}" for module in modules)
    code = (
        f"import sys; {imports}; print(*{{'pymatgen', 'ray', 'mlflow', 'crysatom.graphs.rows'}} & sys.modules.keys())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


def said_before_anything_heavy_is_loaded(name: str, *arguments: str) -> str:
    command = [sys.executable, "-c", _LIGHT, str(ROOT / "jobs" / f"{name}.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "jobs")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


@pytest.mark.parametrize("name", sorted({path.stem for path in (ROOT / "jobs").glob("[!_]*.py")} - {"bootstrap"}))
def test_help_loads_nothing_heavy(name: str) -> None:
    said = said_before_anything_heavy_is_loaded(name, "--help")
    assert "usage" in said.lower()
    assert said.splitlines()[-1] in {"0", "None"}


@pytest.mark.parametrize(
    "command",
    [
        "ingest --out x --source absent.cif",
        "featurize --out x --data absent.parquet",
        "pretrain --data absent.parquet",
        "downstream --data absent.parquet --property density",
        "tune --data absent.parquet --space embedding_dim",
        "study --data absent.parquet --table 9",
    ],
)
def test_data_that_are_not_there_are_missed_at_once(command: str) -> None:
    name, *arguments = command.split()
    assert said_before_anything_heavy_is_loaded(name, *arguments).startswith("error: source 'absent.")


def test_a_study_that_is_not_there_is_missed_at_once(tmp_path: Path) -> None:
    said = said_before_anything_heavy_is_loaded("study", "--table", "4", "--out", str(tmp_path / "runs"))
    assert said.startswith("error: no study 'table4'; choose among ")


@pytest.mark.parametrize(
    ("command", "out"),
    [
        ("ingest", "file"),
        ("ingest", "/proc/x"),
        ("featurize --data .", "file/below"),
        ("pretrain", "file/below/it"),
        ("downstream --property density --seeds 3 --name file", "."),
        ("vectors --name file", "."),
        ("tune --space embedding_dim", "file"),
        ("study --table 9", "file"),
        ("study --study chemistry --vectors onehot", "/proc/x"),
        ("predict --model x .", "file/below.csv"),
        ("predict --model x .", "/proc/x/below.csv"),
        ("report --experiment x", "file/below.html"),
    ],
)
def test_results_that_cannot_be_written_are_told_before_any_work(command: str, out: str, tmp_path: Path) -> None:
    for name in ("file", "file-seed3"):
        (tmp_path / name).touch()
    job, *arguments = command.split()
    said, code = said_before_anything_heavy_is_loaded(job, *arguments, "--out", str(tmp_path / out)).splitlines()
    assert re.match(r"error: (.*/file(-seed3)? is a file; --(out|name) |--out .* cannot be written \()", said), said
    assert "/file" in said or "/proc: No such file or directory" in said
    assert {path.name for path in tmp_path.iterdir()} == {"file", "file-seed3"}
    assert code == "1"
