"""`ray job submit … -- python -m jobs.serve …` does what `galleria serve …` does."""

import sys

from galleria.cli import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
