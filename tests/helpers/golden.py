"""The folder of the golden numbers; ``tests/golden/README.md`` says how they were made."""

from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
