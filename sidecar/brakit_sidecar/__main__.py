"""The command: ``brakit-sidecar``, or ``python -m brakit_sidecar``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
