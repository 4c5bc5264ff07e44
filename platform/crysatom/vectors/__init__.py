"""Element features and atom vectors: what the encoder starts from and what pretraining yields."""
