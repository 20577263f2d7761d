"""The notebook runs from its first cell to its last in a folder of its own, without a network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "configs" / "notebooks" / "quickstart.ipynb"

nbformat = pytest.importorskip("nbformat", reason="the notebook's test needs nbformat and nbclient")
nbclient = pytest.importorskip("nbclient", reason="the notebook's test needs nbclient and ipykernel")
pytest.importorskip("ipykernel", reason="the notebook's test needs ipykernel")


def execute(notebook, folder: Path, path: list[Path], monkeypatch):
    """Run a notebook's cells in a kernel whose working folder is ``folder``; ``path`` goes before it in no case."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, path)))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    client = nbclient.NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    return client.execute()


def outputs(cell) -> str:
    return "".join(output.get("data", {}).get("text/plain", "") for output in cell.outputs)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_cell_runs(tmp_path, monkeypatch):
    notebook = execute(nbformat.read(NOTEBOOK, as_version=4), tmp_path, [ROOT], monkeypatch)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    shapes, numbers = outputs(cells[1]), outputs(cells[4])
    assert shapes == "(torch.Size([200, 128]), torch.Size([200, 128]))"
    before, after = map(float, numbers.strip("()").split(", "))
    assert after > before
    images = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(images) == 3
    assert "one_sentence" in outputs(cells[-1])
    assert not list(tmp_path.glob("checkpoints/*"))


def test_it_is_stored_without_outputs_and_with_its_kernel():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert not [cell for cell in notebook.cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)]


@pytest.mark.slow
def test_a_kernel_in_a_folder_of_a_users_own_losses_and_eval(tmp_path, monkeypatch):
    """Ours are imported, and a line says so; where theirs came first, the error names it."""
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "__init__.py").write_text("x = 1\n")
    (tmp_path / "eval.py").write_text("x = 1\n")
    code = (
        "from lightning_modules import ClipFinetune\nimport eval\nfrom losses import ClipLoss\neval.Retrieval.__name__"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    (cell,) = execute(notebook, tmp_path, [], monkeypatch).cells  # a path of one's own would come before the folder
    assert outputs(cell) == "'Retrieval'"
    told = "".join(output.get("text", "") for output in cell.outputs)
    assert f"`import eval` is GrainCLIP's package here, not {tmp_path / 'eval.py'}" in told
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import losses, lightning_modules")])
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="is imported as 'losses' and hides GrainCLIP's"):
        execute(notebook, tmp_path, [], monkeypatch)
