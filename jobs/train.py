"""`ray job submit … -- python -m jobs.train …` does what `galleria train …` does."""

import sys

from galleria.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
