"""The folders, the arrows and the names hold, and every entry point loads for real."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prefect.flows import Flow, load_flow_from_entrypoint

ROOT = Path(__file__).parents[1]
PACKAGES = ["hardening", "attacks", "defenses", "tasks", "flows", "infra"]
DEPLOYMENTS = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"]
FLOWS = [deployment["entrypoint"] for deployment in DEPLOYMENTS]


@pytest.mark.parametrize("name", PACKAGES)
def test_our_top_level_names_are_ours(name):
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert Path(spec.origin).is_relative_to(ROOT)


def test_no_flow_file_shadows_another_module():
    """Prefect puts flows/ itself first on sys.path when it loads an entry point."""
    stems = {path.stem for path in (ROOT / "flows").glob("*.py")} - {"__init__", "__main__"}
    others = {*PACKAGES, "tests", *sys.stdlib_module_names}
    others |= set(importlib.metadata.packages_distributions()) - set(PACKAGES)
    assert not stems & others


@pytest.mark.parametrize("entrypoint", FLOWS)
def test_every_entry_point_imports_for_real(entrypoint, monkeypatch):
    """A placeholder flow, made from the file's text when its imports fail, does not count."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    flow = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    assert isinstance(flow, Flow)
    assert (
        {"config", "output"} <= set(flow.parameters.properties) <= {"config", "output", "version"}
    )


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_deployments_give_only_parameters_that_their_flow_has(deployment, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    assert set(deployment.get("parameters", {})) <= set(flow.parameters.properties)


def test_arrows_point_down():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_command_starts_without_heavy_imports():
    code = (
        "import sys; from flows.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'mlflow', 'prefect', 'onnx', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_exactly_one_onnxruntime_is_installed():
    """Two distributions own the same folder; with both, removing one breaks the other."""
    names = importlib.metadata.packages_distributions()["onnxruntime"]
    assert len(set(names)) == 1
