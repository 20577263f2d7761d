"""``python -m lightning_modules`` is the same program as ``lightning`` and ``grainclip``."""

from lightning_modules.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
