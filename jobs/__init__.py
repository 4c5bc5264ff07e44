"""Entry points: each parses a configuration, calls one function and prints the path of the result."""
