"""`ray job submit … -- python -m jobs.search …` does what `galleria search …` does."""

import sys

from galleria.cli import main

if __name__ == "__main__":
    main(["search", *sys.argv[1:]])
