"""Run the command line for `python -m partune.cli`."""

import sys

from partune.cli import main

if __name__ == "__main__":
    sys.exit(main())
