"""What is due against a file because of its defenses is due wherever the file turns up again."""

from flows.chain import run_chain
from flows.config import load
from flows.promote import challenge
from flows.sources import find_sources
from hardening.deployment.lineage import Lineage, stamp
from hardening.deployment.signature import graph_sha256
from hardening.log import Silent
from tasks.mlflow_client import mlflow_client
from tasks.settings import store_uri
from tasks.step import Plan
from tasks.store import open_store
from tasks.versions import CHAMPION


def shipped(data, due):
    said = dict.fromkeys(Lineage.model_fields, "said")
    return stamp(data, Lineage(**said | {"graph": graph_sha256(data), "due": due}))


def planned_due(config):
    """The kinds of attack that are due, by the name of the model."""
    walk = Plan()
    run_chain(config, walk, find_sources(config, open_store(store_uri()), Silent()))
    steps = [step.settings for step in walk.steps if step.step == "collect_evidence"]
    return {settings["name"]: settings["due"] for settings in steps}


def test_challenger_champion_and_what_is_made_of_them_owe_what_their_defenses_call_for(
    here, trained, tmp_path
):
    kinds = {"1": "white-box, gradient-free, transfer", "2": "white-box, expectation"}
    with mlflow_client() as client:
        client.create_registered_model("owing")
        for place, due in kinds.items():
            folder = tmp_path / place
            folder.mkdir()
            (folder / "model.onnx").write_bytes(shipped(trained(0), due))
            client.create_model_version("owing", folder.as_uri())
        client.set_registered_model_alias("owing", CHAMPION, "2")
    config = load(here.write(registry={"name": "owing"}))

    due = planned_due(challenge(config, 1))
    assert due["control"] == ["white-box", "gradient-free", "transfer"]
    assert due["champion"] == ["white-box", "gradient-free", "expectation"]

    (tmp_path / "brought.onnx").write_bytes(shipped(trained(0), kinds["1"]))
    here.write(registry=None, model={"onnx": str(tmp_path / "brought.onnx")}, training=None)
    due = planned_due(load("run.yaml"))
    assert len(due) > 1
    assert all("transfer" in kinds for kinds in due.values())
