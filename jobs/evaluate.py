"""`ray job submit … -- python -m jobs.evaluate …` does what `galleria evaluate …` does."""

import sys

from galleria.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
