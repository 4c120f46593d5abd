"""`python -m mova`."""

import sys

from mova.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
