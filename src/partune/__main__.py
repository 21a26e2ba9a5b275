"""Run the command line with `python -m partune`."""

import sys

from partune.cli import main

if __name__ == "__main__":
    sys.exit(main())
