"""``python -m lightning_modules`` is the same program as ``lightning`` and ``grainclip``.

Python puts the working folder first on its path; as in those commands it goes last here, so that the user's own methods
are found and none of their files hides a package.
"""

import os
import sys
from pathlib import Path

if sys.path and sys.path[0] in ("", os.getcwd()) and Path.cwd() != Path(__file__).resolve().parents[1]:
    sys.path.append(sys.path.pop(0))

from lightning_modules.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
