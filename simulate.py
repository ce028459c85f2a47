"""Simulate strong-lens images: `python simulate.py --help` (darklens/commands/simulate.py)."""

import sys

from darklens.commands.simulate import main

if __name__ == "__main__":
    sys.exit(main())
