"""Sweeps of settings: trials on Ray Tune, their record, and the probe that evaluates vectors."""
