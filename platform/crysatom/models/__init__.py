"""Trained models: their files, prediction with them, and training that starts from one."""
