"""``mozoo compare`` in a clone; ``--help`` describes it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mozoo.commands.compare import main

if __name__ == "__main__":
    main()
