"""Searches and writes the catalogue: searchers, shards, the writer and stores of images."""
