"""One package for each family of models, each with the same files. No family imports another."""
