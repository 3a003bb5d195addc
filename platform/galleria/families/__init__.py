"""One room for each family of models, each with the same files. A room imports nothing of another."""
