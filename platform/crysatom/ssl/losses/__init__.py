"""Self-supervised losses between two views, each exact over all workers; one formula per file.

A loss takes the projections ``z_a`` and ``z_b``, ``(n, d)`` each, of the n crystals this worker holds
and returns the loss of the global batch.
"""
