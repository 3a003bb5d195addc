"""`ray job submit … -- python -m jobs.doctor …` does what `galleria doctor …` does."""

import sys

from galleria.cli import main

if __name__ == "__main__":
    main(["doctor", *sys.argv[1:]])
