"""The installed command in a folder of the user's: it finds a method there, and its log holds nothing but the run's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bad_inputs.stage import write_config
from tests.helpers.tiny import write_shards

NOISE = (
    "litlogger",
    "GPU available",
    "TPU available",
    "FLOPs",
    "model summary",
    "Precision",
    "Seed set",
    "estimate number",
)
METHOD = """
from lightning_modules import BetaClip


class MyBeta(BetaClip):
    \"\"\"A method of the user's.\"\"\"
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path(sys.executable).with_name("lightning").is_file(), reason="needs the installed command")
def test_a_method_beside_me_trains_and_the_log_is_its_own(tmp_path):
    write_shards(tmp_path / "shards", 24, 2)
    write_config(tmp_path / "tiny.yaml")
    (tmp_path / "mymethod.py").write_text(METHOD)
    (tmp_path / "eval.py").write_text("raise ValueError('a file of the user hides a package')\n")
    command = [
        Path(sys.executable).with_name("lightning"),
        "fit",
        "--config",
        "tiny.yaml",
        "--model",
        "mymethod.MyBeta",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "MyBeta: " in told
    assert not [words for words in NOISE if words in told]
