"""Predict properties from crystal graphs and atom vectors. A new predictor is one file and one line in ``registry``."""
