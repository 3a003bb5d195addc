"""`ray job submit … -- python -m jobs.items …` does what `galleria items …` does."""

import sys

from galleria.cli import main

if __name__ == "__main__":
    main(["items", *sys.argv[1:]])
