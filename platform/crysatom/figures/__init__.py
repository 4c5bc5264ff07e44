"""Figures by matplotlib: what runs log, and what the report shows."""
