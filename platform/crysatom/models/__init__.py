"""Trained models: their files, prediction, and fine-tuning."""
