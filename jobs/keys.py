"""`ray job submit … -- python -m jobs.keys …` does what `galleria keys …` does."""

import sys

from galleria.cli import main

if __name__ == "__main__":
    main(["keys", *sys.argv[1:]])
