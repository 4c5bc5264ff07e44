"""Pretraining: masked views, encoder, decoders, self-supervised losses, and their joint objective."""
