"""Study of the chemistry that atom vectors encode (the paper's Figure 5)."""
