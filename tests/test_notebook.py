"""Example.ipynb runs from start to end (with few images), and is stored with its outputs."""

import nbformat
import pytest
from conftest import ROOT

NOTEBOOK = ROOT / "Example.ipynb"


@pytest.mark.slow
def test_runs_from_start_to_end():
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    sizes = notebook.cells[1].source
    assert "IMAGES = 500" in sizes and "EPOCHS = 5" in sizes
    notebook.cells[1].source = sizes.replace("500", "40").replace("EPOCHS = 5", "EPOCHS = 1")
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(ROOT)}}).execute()
    assert any("change of the logits" in str(cell.get("outputs")) for cell in notebook.cells)


def test_is_stored_with_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code) and sum(bool(cell.outputs) for cell in code) >= 8
    assert NOTEBOOK.stat().st_size < 3e6
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]
