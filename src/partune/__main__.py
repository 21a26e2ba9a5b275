"""`python -m partune`: the command line."""

import sys

from partune.cli import main

if __name__ == "__main__":
    sys.exit(main())
