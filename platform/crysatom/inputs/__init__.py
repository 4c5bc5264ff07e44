"""Inputs of a run, found by the names that a user gives: graphs, labels, vectors, encoders, models."""
