"""Matplotlib figures that runs log and the report shows."""
