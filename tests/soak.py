"""How long the tests of durability, damage and random input go on: `make soak` raises it."""

import os

SOAK = int(os.environ.get("GALLERIA_SOAK", "1"))
"""Factor of their sizes; 1 in `make test`."""
