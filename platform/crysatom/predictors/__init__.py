"""Predictors: a property from crystal graphs and atom vectors. A new one is a file here and a line in ``registry``."""
