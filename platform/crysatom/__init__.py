"""Element vectors learned from unlabeled crystals (the CrysAtom method), on Ray."""

from crysatom.names import __version__

__all__ = ["__version__"]
