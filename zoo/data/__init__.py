"""Data sets that the models are trained on, and the programs that make them."""
