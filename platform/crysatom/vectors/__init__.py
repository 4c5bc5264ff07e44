"""Element features, the input of the encoder, and atom vectors, the result of pretraining."""
