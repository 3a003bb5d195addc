"""`ray job submit … -- python -m jobs.convert …` does what `galleria convert …` does."""

import sys

from galleria.cli import main

if __name__ == "__main__":
    main(["convert", *sys.argv[1:]])
