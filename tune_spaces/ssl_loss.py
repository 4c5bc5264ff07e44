"""Which self-supervised loss goes best with the auto-encoder? CrysAtom's Table 10 (arXiv 2409.04737), and none."""

from crysatom.config import Choice, SearchSpace


def space() -> SearchSpace:
    """Return one trial per loss, each to its end."""
    return SearchSpace(
        objective="pretrain",
        settings={"ssl_loss": Choice(("barlow_twins", "vicreg", "nt_xent", "none"))},
        fixed={"epochs": 20, "batch_size": 48},
    )
