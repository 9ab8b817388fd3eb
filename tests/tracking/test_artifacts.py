import json

import pytest


@pytest.fixture(scope="session")
def prefect_api():
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.mark.slow  # a Prefect server of its own
def test_the_verdict_is_published_as_prefect_can_show_it(prefect_api):
    from prefect import flow
    from prefect.artifacts import Artifact

    from tasks.artifacts import publish

    @flow
    def publishing() -> None:
        publish(
            "My Digits_v2!",
            [
                {"model": "control", "robust accuracy": 0.0, "latency": float("inf")},
                {"model": "tuned", "robust accuracy": 0.75, "latency": float("nan")},
            ],
            "# passed",
            {"MLflow run": "http://host/#/runs/1", "Report": "file:///runs/report.html"},
        )

    publishing()

    def data(key: str):
        found = Artifact.get(key)
        assert found is not None, key
        return found.data

    table = data("my-digits-v2-models")
    rows = json.loads(table) if isinstance(table, str) else table
    assert [row["robust accuracy"] for row in rows] == [0.0, 0.75]
    assert [row["latency"] for row in rows] == [None, None]
    assert data("my-digits-v2-verdict") == "# passed"
    assert "http://host/#/runs/1" in data("my-digits-v2-mlflow-run")
    assert "file:///runs/report.html" in data("my-digits-v2-report")


@pytest.mark.parametrize(
    ("name", "key"), [("digits", "digits"), ("My Run_2!", "my-run-2"), ("--a..b--", "a-b")]
)
def test_a_key_has_lower_case_letters_digits_and_dashes(name, key):
    from tasks.artifacts import artifact_key

    assert artifact_key(name) == key
    assert artifact_key("数字") != artifact_key("模型")
