"""`ray job submit … -- python -m jobs.recipes …` does what `galleria recipes …` does."""

import sys

from galleria.cli import main

if __name__ == "__main__":
    main(["recipes", *sys.argv[1:]])
