"""The product table."""
