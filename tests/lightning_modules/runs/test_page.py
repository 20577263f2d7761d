"""Every command of configs/README.md, small, in the order in which they stand; those that it calls refused are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.helpers.commands import Commands

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "configs" / "README.md").read_text("utf-8")
SMALL = (
    "--data.scenes.train 16 --data.scenes.dev 8 --data.scenes.held_out 8 "
    "--data.batch_size 16 --data.num_workers 0 --trainer.accelerator cpu "
    "--trainer.enable_progress_bar false --diagnostics.every_n_steps 0 --images.every_n_steps 0 "
    "--trainer.precision 32-true --model.encoder.image_layers 1 --model.encoder.text_layers 1"
)
LINES = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_all_of_them_in_order(tmp_path):
    with Commands(tmp_path) as commands:
        for line in LINES:
            command, _, comment = line.partition("#")
            _, *words = shlex.split(command)
            status, said = commands.run(*words, *SMALL.split(), GRAINCLIP_CACHE=str(tmp_path / "cache"))
            refused = "refused: " in comment
            assert status == (2 if refused else 0), f"{line}\n{said}"
            assert not refused or comment.partition("refused: ")[2].strip() in said
    runs = {path.name for path in (tmp_path / "runs").iterdir()}
    assert runs == {"beta_bce", "beta_0", "beta_quarter", "beta_bce.old-1"}
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "cache"}


def test_the_page_names_what_may_change():
    """In the page and in the code stands the same."""
    from lightning_modules.checkpoints.setting_changes import FREE, TRAINER

    for name in (*FREE, *TRAINER):
        assert f"`{name}`" in PAGE or f"`trainer.{name}`" in PAGE, name
    assert len(LINES) > 8
