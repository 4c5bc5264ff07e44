"""Studies: comparisons of many runs, and contributions to a leaderboard. Each kind has its own folder."""
