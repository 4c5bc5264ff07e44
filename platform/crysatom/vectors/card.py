"""The card of a vectors file: data, number of sites per element, how to use the vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crysatom.names import MAX_ATOMIC_NUMBER, SYMBOLS, __version__
from crysatom.text_tables import markdown
from crysatom.vectors.table import AtomVectors

CARD_MD = "card.md"


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """Content of a card that is not part of the vectors.

    Attributes:
        data: Where the crystals come from, as the user named it.
        data_digest: Digest of the shards.
        num_crystals: Total number of crystals.
        crystals_per_element: Number of crystals that contain an element, by atomic number.
        config: The resolved configuration.
        losses: Final losses, by metric name.
        run_id: MLflow run; empty if not tracked.

    """

    data: str
    data_digest: str
    num_crystals: int
    crystals_per_element: Mapping[int, int]
    config: Mapping[str, Any]
    losses: Mapping[str, float]
    run_id: str = ""
    version: str = field(default=__version__)


def card(vectors: AtomVectors, facts: CardFacts) -> str:
    """Return the card as Markdown."""
    sections = (_heading(vectors, facts), _usage(), _elements(vectors, facts), _training(facts), _citation(facts))
    return "\n".join(sections)


def _heading(vectors: AtomVectors, facts: CardFacts) -> str:
    run = f"\n- MLflow run: `{facts.run_id}`" if facts.run_id else ""
    method = _method(facts)
    name = "CrysAtom vectors" if method == "crysatom" else f"Vectors by {method}"
    what = "that knows nothing of it" if method in CONTROLS else "learned from crystal structures without labels"
    return f"""# {name}: {len(vectors.atomic_numbers)} elements, {vectors.dim} dimensions

One vector per chemical element, {what}.

- Data: `{facts.data}`, {facts.num_crystals:,} crystals
- Data digest: `{facts.data_digest}`
- Software: crysatom {facts.version}{run}
"""


def _usage() -> str:
    return """## How to load

```python
from crysatom.vectors.files import read_vectors
vectors = read_vectors("vectors.safetensors")   # or vectors.csv, atom_init.json
rows = vectors.lookup([11, 17])                 # float32 (2, D) for Na and Cl
```

`vectors.csv` also loads with ElementEmbeddings' `Embedding.from_csv`; `atom_init.json` replaces the file
of that name in any code of the CGCNN family.
"""


def _elements(vectors: AtomVectors, facts: CardFacts) -> str:
    counts = vectors.site_counts
    sites = ["not recorded"] * len(vectors.symbols) if counts is None else [f"{count:,}" for count in counts]
    rows = [
        [symbol, f"{facts.crystals_per_element.get(int(z), 0):,}", site]
        for z, symbol, site in zip(vectors.atomic_numbers, vectors.symbols, sites, strict=True)
    ]
    held = {SYMBOLS[z - 1] for z in facts.crystals_per_element}
    seen = held | set(vectors.symbols)
    never = [symbol for symbol in SYMBOLS[:MAX_ATOMIC_NUMBER] if symbol not in seen]
    alone = [symbol for symbol in SYMBOLS if symbol in held - set(vectors.symbols)]
    table = markdown(["element", "crystals", "sites"], rows, "lrr")
    absent = f"Never seen, and therefore absent (not zero): {', '.join(never)}.\n" if never else ""
    why = "in no surroundings of another element" if _method(facts) == "structure" else "bonded to nothing"
    unlike = f"Seen, but {why}, and therefore absent: {', '.join(alone)}.\n" if alone else ""
    return f"## Elements\n\n{table}\n{absent}{unlike}"


def _training(facts: CardFacts) -> str:
    losses = markdown(["loss", "final value"], [(name, _number(value)) for name, value in facts.losses.items()], "lr")
    config = json.dumps(dict(facts.config), indent=2, sort_keys=True, default=str)
    return f"""## Training

{losses}
Configuration:

```json
{config}
```
"""


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.5g}"


CRYSATOM = """"CrysAtom: Distributed Representation of Atoms for Crystal Property Prediction",
Learning on Graphs Conference 2024, arXiv:2409.04737"""
NODE_LEVEL = """"Strategies for Pre-training Graph Neural Networks", ICLR 2020, arXiv:1905.12265"""


SKIPATOM = """"Distributed representations of atoms and materials for machine learning",
npj Comput. Mater. 8, 44 (2022)"""
ATOM2VEC = """"Learning atoms for materials discovery", PNAS 115, E6411 (2018)"""
STRUCTURE = "counts of substitutions and bond geometry, this software's own (docs/vectors.md)"
METHODS = {"crysatom": CRYSATOM, "skipatom": SKIPATOM, "atom2vec": ATOM2VEC, "structure": STRUCTURE}
"""The other methods, by masked elements and contexts, are from :data:`NODE_LEVEL`."""

CONTROLS = ("onehot", "random")


def _method(facts: CardFacts) -> str:
    return str(facts.config.get("method") or facts.config.get("objective", "crysatom"))


def _citation(facts: CardFacts) -> str:
    method = _method(facts)
    source = "" if method in CONTROLS else f"The method: {METHODS.get(method, NODE_LEVEL)}. "
    return f"""## How to cite

{source}The software: CrysAtom Platform {facts.version}
(CITATION.cff). Cite the source of the crystals too; its license also applies to data derived from them.
"""
