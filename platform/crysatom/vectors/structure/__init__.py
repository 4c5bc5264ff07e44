"""Element vectors counted from structures, without labels and without training.

Two elements are similar if they stand in the same surroundings (Harris, Word 10, 146 (1954), of words), and if their
bonds have similar lengths. :mod:`tally` counts in graph shards, :mod:`substitution` and :mod:`geometry` turn the counts
into two blocks of columns, and :mod:`learn` joins the blocks to vectors with standard errors.
"""
