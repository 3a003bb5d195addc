"""`ray job submit … -- python -m jobs.publish …` does what `galleria publish …` does."""

import sys

from galleria.cli import main

if __name__ == "__main__":
    main(["publish", *sys.argv[1:]])
