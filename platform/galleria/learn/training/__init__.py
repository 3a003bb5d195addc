"""The training loop, and what feeds and initialises it."""
