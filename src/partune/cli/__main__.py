"""`python -m partune.cli`"""

import sys

from partune.cli import main

sys.exit(main())
