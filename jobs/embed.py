"""`ray job submit … -- python -m jobs.embed …` does what `galleria embed …` does."""

import sys

from galleria.cli import main

if __name__ == "__main__":
    main(["embed", *sys.argv[1:]])
