"""The demo: real data from installed packages, and the run over all of it."""
