"""Look up known vulnerabilities of the versions in constraints.txt: ``make audit``.

pip-audit queries PyPI. If PyPI's advisories cannot be reached (for example on a mirror of packages), it skips every
package and prints "No known vulnerabilities found"; here that is a failure. On such a machine, use a clone of
https://github.com/pypa/advisory-database: ``make audit ADVISORIES=folder``.

Exit codes: 0 all packages were checked and none has a known vulnerability; 1 vulnerabilities were found; 2 some
packages could not be checked.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOUND, NOT_CHECKED = 1, 2
NAMED = 5


@dataclass
class Audit:
    """Result of an audit.

    Attributes:
        checked: Number of packages that were looked up.
        skipped: Reasons why packages were not looked up, by package.
        found: Known vulnerabilities, one line each.
        against: Source of the advisories.

    """

    against: str
    checked: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)


def pinned(constraints: Path) -> dict[str, str]:
    """Return the versions of a constraints file, by normalized name."""
    lines = (line.partition("#")[0].partition(";")[0].strip() for line in constraints.read_text().splitlines())
    pairs = (line.partition("==") for line in lines if "==" in line)
    return {normalized(name): version for name, _, version in pairs}


def normalized(name: str) -> str:
    """Return a package's name in PyPI's normalized form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def by_pip_audit(constraints: Path) -> Audit:
    """Query PyPI by pip-audit, which is installed in this environment.

    Raises:
        RuntimeError: If pip-audit itself fails.

    """
    options = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "pip_audit", "--requirement", str(constraints), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout.strip():
        raise RuntimeError(f"pip-audit failed with {done.returncode}: {done.stderr.strip()[-500:]}")
    audit = Audit(against="PyPI's advisories, by pip-audit")
    for package in json.loads(done.stdout)["dependencies"]:
        if "skip_reason" in package:
            audit.skipped[package["name"]] = package["skip_reason"]
            continue
        audit.checked += 1
        for known in package["vulns"]:
            fixed = ", ".join(known["fix_versions"]) or "no version"
            audit.found.append(f"{package['name']} {package['version']}: {known['id']}, fixed in {fixed}")
    return audit


def by_advisories(constraints: Path, folder: Path) -> Audit:
    """Search a clone of PyPA's advisory database.

    Raises:
        RuntimeError: If the folder is not such a clone.

    """
    if not (folder / "vulns").is_dir():
        raise RuntimeError(f"{folder} has no vulns/: give a clone of https://github.com/pypa/advisory-database")
    packages = pinned(constraints)
    audit, newest = Audit(against="", checked=len(packages)), ""
    for advisory in _advisories(folder):
        newest = max(newest, str(advisory.get("published", ""))[:10])
        for affected in advisory.get("affected", ()):
            name = normalized(affected["package"]["name"])
            if name in packages and not advisory.get("withdrawn") and _affects(affected, packages[name]):
                others = ", ".join(advisory.get("aliases", ()))
                audit.found.append(f"{name} {packages[name]}: {advisory['id']} ({others})")
    audit.against = f"{folder} (newest advisory: {newest})"
    return audit


def _advisories(folder: Path) -> Iterator[dict[str, Any]]:
    import yaml

    for path in sorted(folder.glob("vulns/*/*.yaml")):
        yield yaml.safe_load(path.read_text())


def _affects(affected: dict[str, Any], version: str) -> bool:
    from packaging.version import Version

    if version in map(str, affected.get("versions", ())):
        return True
    mine, inside = Version(version), False
    for known in affected.get("ranges", ()):
        if known["type"] != "ECOSYSTEM":
            continue
        for event in known["events"]:  # ordered by version
            if "introduced" in event:
                inside = mine >= Version(str(event["introduced"]))
            elif "fixed" in event:
                inside = inside and mine < Version(str(event["fixed"]))
            elif "last_affected" in event:
                inside = inside and mine <= Version(str(event["last_affected"]))
        if inside:
            return True
    return False


def report(audit: Audit) -> int:
    """Print vulnerabilities and skipped packages; return the exit code."""
    print(f"{audit.checked} packages checked against {audit.against}: {len(audit.found)} known vulnerabilities")
    print(*(f"  {line}" for line in audit.found), sep="\n", end="\n" if audit.found else "")
    if audit.skipped:
        named = ", ".join(list(audit.skipped)[:NAMED])
        print(
            f"{len(audit.skipped)} packages could not be checked ({named}, ...): {next(iter(audit.skipped.values()))}"
        )
    if audit.skipped and not audit.checked:
        print("nothing was checked: this index has no advisories. See ADVISORIES in tools/audit.py")
    return FOUND if audit.found else NOT_CHECKED if audit.skipped else 0


def main() -> int:
    """Audit; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("constraints", type=Path, nargs="?", default=Path("constraints.txt"))
    parser.add_argument("--advisories", type=Path, help="clone of https://github.com/pypa/advisory-database")
    arguments = parser.parse_args()
    try:
        if arguments.advisories:
            return report(by_advisories(arguments.constraints, arguments.advisories))
        return report(by_pip_audit(arguments.constraints))
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_CHECKED


if __name__ == "__main__":
    sys.exit(main())
