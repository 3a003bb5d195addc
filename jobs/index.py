"""`ray job submit … -- python -m jobs.index …` does what `galleria index …` does."""

import sys

from galleria.cli import main

if __name__ == "__main__":
    main(["index", *sys.argv[1:]])
