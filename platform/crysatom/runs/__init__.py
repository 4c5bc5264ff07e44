"""The lifecycle of a run: its paths, its folder, and how it starts, stops and ends."""
