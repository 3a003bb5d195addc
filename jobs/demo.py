"""`ray job submit … -- python -m jobs.demo …` does what `galleria demo …` does."""

import sys

from galleria.cli import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
