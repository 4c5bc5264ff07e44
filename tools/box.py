"""Put the vectors of a finished run into the package, to be used by name: ``python tools/box.py runs/NAME TABLE``.

Writes ``platform/crysatom/vectors/box/TABLE/``: ``vectors.safetensors``, whose provenance has data, license, command,
commit and evidence but no paths of this machine, and a card. A table may be replaced; nothing else needs a change.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from crysatom.config import PretrainConfig, Role, VectorsConfig
from crysatom.config.checks import require_name
from crysatom.config.flags import flags_of
from crysatom.tracking.fields import VECTORS
from crysatom.vectors.card import CARD_MD
from crysatom.vectors.files import ATOM_INIT_JSON, VECTORS_CSV, VECTORS_SAFETENSORS, read_vectors, write_vectors
from crysatom.vectors.shipped import BOX
from crysatom.writing import write_text

COMMIT = "mlflow.source.git.commit"
DIRTY = "-dirty"
MATERIALS_PROJECT = (
    "crystal structures of the Materials Project (Jain et al., APL Mater. 1, 011002 (2013)), from "
    "github.com/fxcoudert/topology_databases"
)


def main() -> None:
    """Run the tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run, which holds vectors/")
    parser.add_argument("name", help="name of the table for --vectors, such as structure-mp")
    parser.add_argument("--file", default="mp_pool.parquet", help="crystal table, as the command in the card names it")
    parser.add_argument("--data", default=MATERIALS_PROJECT, help="where the crystals come from")
    parser.add_argument("--license", default="CC-BY 4.0", help="license of the crystals")
    parser.add_argument("--evidence", default="docs/results.md", help="page that says what the vectors gain")
    arguments = parser.parse_args()
    require_name("name", arguments.name)
    for path in boxed(**vars(arguments)):
        print(path, f"{path.stat().st_size:,} bytes")


def boxed(run: Path, name: str, **facts: str) -> list[Path]:
    """Write a table and its card to the box; return their paths.

    Args:
        run: Folder of the run.
        name: Name of the table.
        facts: ``file``, ``data``, ``license`` and ``evidence``, see ``--help``.

    """
    table = read_vectors(run / VECTORS)
    found = provenance(table.provenance, **facts)
    folder = BOX / name
    write_vectors(dataclasses.replace(table, provenance=found), folder)
    for derived in (VECTORS_CSV, ATOM_INIT_JSON):
        (folder / derived).unlink()
    write_text(folder / CARD_MD, card((run / VECTORS / CARD_MD).read_text(encoding="utf-8"), name, found))
    return [folder / VECTORS_SAFETENSORS, folder / CARD_MD]


def provenance(of: Any, file: str, **facts: str) -> dict[str, Any]:
    """Return the provenance of a run without paths, with the command that repeats it."""
    kind: type[VectorsConfig | PretrainConfig] = VectorsConfig if "method" in of["config"] else PretrainConfig
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in of["config"].items()}
    kept = {key: value for key, value in settings.items() if key not in kind.names(Role.PLACE)} | {"data": file}
    job = "vectors" if kind is VectorsConfig else "pretrain"
    return {
        **facts,
        "command": " ".join(["python", f"jobs/{job}.py", *flags_of(kind.of(**kept))]),
        "commit": of[COMMIT],
        "config": kept,
        **{key: value for key, value in of.items() if key.endswith("_digest") or key.startswith("version.")},
    }


def card(text: str, name: str, found: dict[str, Any]) -> str:
    """Return the card of a run as the card of a shipped table."""
    heading, *sections = text.split("\n## ")
    told = {section.split("\n", 1)[0]: section.split("\n", 1)[1].strip() for section in sections}
    kept = "\n".join(line for line in heading.splitlines() if not line.startswith(("- MLflow run", "- Data:"))).strip()
    crystals = next(line for line in heading.splitlines() if line.startswith("- Data:")).rpartition(", ")[2]
    commit = found["commit"].removesuffix(DIRTY) + (" with uncommitted changes" if DIRTY in found["commit"] else "")
    about = f"""- Name: `--vectors {name}`
- Data: {crystals}: {found["data"]}
- License of the data: {found["license"]}; it also applies to these vectors
- Command: `{found["command"]}`, commit {commit}
- Evidence: {found["evidence"]}"""
    usage = f"""```python
from crysatom.vectors.files import write_vectors
from crysatom.vectors.given import given_vectors
vectors = given_vectors("{name}")
rows = vectors.lookup([11, 17])                 # float32 (2, D) for Na and Cl
write_vectors(vectors, "{name}")        # vectors.csv (ElementEmbeddings), atom_init.json (CGCNN), safetensors
```"""
    config = json.dumps(found["config"], indent=2, sort_keys=True)
    training = told["Training"].partition("Configuration:")[0].strip()
    parts = [
        f"{kept}\n{about}",
        f"## How to load\n\n{usage}",
        f"## Elements\n\n{told['Elements']}",
        f"## Training\n\n{training}\n\nConfiguration:\n\n```json\n{config}\n```",
        f"## How to cite\n\n{told['How to cite']}",
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
