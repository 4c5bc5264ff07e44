"""Featurize: from a crystal to its periodic neighbor graph, stored flat and read back as batches."""
