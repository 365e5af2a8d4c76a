"""What MONAI and the model zoo's CI ask of a bundle: metadata, network format, TorchScript export, workflow properties."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out

SCHEMA_MD5 = "06954cad2cc5d3784e72077ac76f0fc8"


@pytest.fixture
def metadata(bundle_root: Path) -> dict:
    return json.loads((bundle_root / "configs" / "metadata.json").read_text())


@pytest.fixture
def inference_config(bundle_root: Path) -> str:
    return str(bundle_root / "configs" / "inference.yaml")


def network(config: str, root: Path) -> torch.nn.Module:
    parser = ConfigParser()
    parser.read_config(config)
    parser["bundle_root"] = str(root)
    return parser.get_parsed_content("network_def").eval()


def test_metadata_follows_the_official_schema(bundle_root):
    pytest.importorskip("jsonschema")
    schema = bundle_root / ".." / "shared" / "zoo" / "meta_schema_20240725.json"
    if not schema.exists():
        pytest.skip("the official schema is not on this machine (../shared/zoo) and tests do not download")
    verify_metadata(str(bundle_root / "configs" / "metadata.json"), filepath=schema.resolve(), hash_val=SCHEMA_MD5)


def test_metadata_states_the_pinned_versions(bundle_root, metadata):
    lines = (line.split("==") for line in (bundle_root / "constraints.txt").read_text().splitlines() if "==" in line)
    pins = {name.lower(): version for name, version in lines}
    assert metadata["version"] in metadata["changelog"]
    stated = {"monai": metadata["monai_version"], "torch": metadata["pytorch_version"], "numpy": metadata["numpy_version"]}
    for name, version in (stated | metadata["required_packages_version"]).items():
        assert pins[name.lower()] == version, name


def test_metadata_states_the_figure_of_the_model_card(bundle_root, metadata):
    card = (bundle_root / "docs" / "README.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"Mean relative error .*?\*\*([\d.]+) %\*\*", card, re.DOTALL)
    assert metadata["eval_metrics"] == {"mean_relative_error": round(float(stated) / 100, 4)}


def test_network_takes_and_gives_what_the_metadata_says(bundle_root, metadata, inference_config):
    verify_net_in_out(
        "network_def",
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        config_file=inference_config,
        device="cpu",
        bundle_root=str(bundle_root),
    )
    # MONAI looks at channels and dtype only; the eightfold grid and the probabilities are for us to check.
    image, pred = metadata["network_data_format"]["inputs"]["image"], metadata["network_data_format"]["outputs"]["pred"]
    with torch.no_grad():
        output = network(inference_config, bundle_root)(torch.rand(1, image["num_channels"], *image["spatial_shape"]))
    assert list(output.shape) == [1, pred["num_channels"], *pred["spatial_shape"]]
    torch.testing.assert_close(output.sum(1), torch.ones_like(output[:, 0]))
    assert output.min() >= 0


def test_torchscript_export_gives_the_eager_output(tmp_path, bundle_root, inference_config):
    torch.manual_seed(1)
    net = network(inference_config, bundle_root)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # so that weights that were not loaded show
    torch.save({"model": net.state_dict(), "phases": ["pore"]}, tmp_path / "model.pt")
    ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        config_file=inference_config,
        key_in_ckpt="model",
        bundle_root=str(bundle_root),
    )
    scripted = torch.jit.load(str(tmp_path / "model.ts")).eval()
    image = torch.rand(1, 5, 12, 10, 11)
    with torch.no_grad():
        other = network(inference_config, bundle_root)(image)  # of weights that were not loaded
    outputs = []
    for module in (net, scripted):
        torch.manual_seed(0)  # noise finer than the input is drawn inside
        with torch.no_grad():
            outputs.append(module(image))
    assert (other - outputs[0]).abs().max() > 0.1
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=5e-4)  # sums in another order, enlarged by the random weights


@pytest.mark.parametrize(("workflow_type", "name"), [("train", "train"), ("infer", "inference")])
def test_workflows_have_the_properties_that_monai_asks_for(workflow_type, name, tmp_path, bundle_root, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the working folder must not matter
    workflow = ConfigWorkflow(
        config_file=str(bundle_root / "configs" / f"{name}.yaml"),
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        logging_file=str(bundle_root / "configs" / "logging.conf"),
        workflow_type=workflow_type,
        bundle_root=str(bundle_root),
        output_dir=str(tmp_path / "output"),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize(("name", "run_id"), [("train", "training"), ("inference", "inference"), ("evaluate", "evaluating")])
def test_configs_have_the_default_and_the_named_run_ids(name, run_id, bundle_root):
    parser = ConfigParser()
    parser.read_config(str(bundle_root / "configs" / f"{name}.yaml"))
    assert "run" in parser and run_id in parser
    arguments = ConfigParser.load_config_file(str(bundle_root / "configs" / f"{name}_args.yaml"))
    assert arguments["config_file"] == f"configs/{name}.yaml"
    assert (bundle_root / arguments["logging_file"]).exists()


def test_shipped_model_loads_safely_into_the_network(bundle_root, inference_config):
    checkpoint = torch.load(bundle_root / "models" / "model.pt", map_location="cpu", weights_only=True)
    net = network(inference_config, bundle_root)
    net.load_state_dict(checkpoint["model"])
    assert checkpoint["scale_factor"] == net.scale_factor == 8
    assert checkpoint["phases"][0] == checkpoint["lr_phases"][0] == "pore"
    assert (bundle_root / "models" / "model.pt").stat().st_size < 25e6  # the zoo's limit for files in git


def test_the_zoo_finds_its_files(bundle_root):
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/metadata.json", "configs/inference.yaml", "models/model.pt"):
        assert (bundle_root / name).is_file(), name
