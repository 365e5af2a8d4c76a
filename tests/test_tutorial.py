"""The notebook runs from the first cell to the last, and shows pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")


def test_the_notebook_runs(bundle_root, tmp_path, monkeypatch):
    monkeypatch.setenv("TUTORIAL_OUTPUT", str(tmp_path / "results"))
    notebook = nbformat.read(bundle_root / "docs" / "tutorial.ipynb", as_version=4)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")  # kept without results
    client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(bundle_root / "docs")}})
    client.execute()
    texts = "".join(output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    assert "scan (64, 64, 64) voxels of (3.5, 3.5, 3.5) µm" in texts and "mean relative error" in texts
    pictures = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    assert (tmp_path / "results" / "report.html").is_file() and (tmp_path / "results" / "lr_sr_majority.ome.zarr").is_dir()
    record = json.loads((tmp_path / "results" / "lr_sr_provenance.json").read_text())
    assert Path(record["model"]["file"]) == tmp_path / "results" / "model" / "model.pt" and record["result"]["shape"] == [64, 64, 64]
