"""Tables of atom vectors compared on many small draws of training crystals."""
