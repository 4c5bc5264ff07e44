"""Figures of a run, for the screen and for a paper."""
