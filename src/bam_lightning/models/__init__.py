"""Batch, encoder, heads and the model that they make; loading and saving."""
