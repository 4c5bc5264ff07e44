"""Ingest: read crystals from any source into the crystal table, and record every rejected input."""
