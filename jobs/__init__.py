"""Entry points: each parses a configuration, calls one function and says where the result is."""
