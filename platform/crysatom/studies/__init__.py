"""Comparisons of many runs, and what is published of them."""
