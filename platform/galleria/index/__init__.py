"""Nearest-neighbour search over the vectors of the product table."""
