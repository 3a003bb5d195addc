"""Checks a user's files before anything is trained on them."""
