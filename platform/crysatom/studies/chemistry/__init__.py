"""The study of what chemistry atom vectors hold (the paper's Figure 5)."""
