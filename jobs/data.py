"""`ray job submit … -- python -m jobs.data …` does what `galleria data …` does."""

import sys

from galleria.cli import main

if __name__ == "__main__":
    main(["data", *sys.argv[1:]])
