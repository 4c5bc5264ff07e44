"""Ingest: from wherever crystals are to the crystal table, with every rejected input accounted for."""
