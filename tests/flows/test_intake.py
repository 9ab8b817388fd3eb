"""Models that arrive: each is evaluated once, none is lost, and a refused one is tagged."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest

from flows.__main__ import main
from flows.intake import intake
from hardening.errors import DataError, DigestError
from tasks import events, inbox
from tasks.arrivals import ATTEMPTS, begin_attempt, due, look
from tasks.inbox import SOURCE
from tasks.mlflow_client import mlflow_client
from tasks.settings import LEASE
from tasks.tags import RECIPE
from tasks.versions import VERDICT, every

QUICK = {
    "evaluation__images": 20,
    "evaluation__curve": [],
    "evaluation__attacks": [
        {"name": "apgd", "params": {"steps": 20, "loss": "ce"}},
        {"name": "square", "params": {"queries": 100}},
    ],
    "gate__robust_accuracy": 0.0,
    "gate__clean_accuracy": 0.1,
    "candidates__tuned-int8": None,
}


@pytest.fixture
def write(here, request):
    """Writes a configuration about a registered model that no other test uses; its name."""
    name = f"m{abs(hash(request.node.name))}"

    def make(**changes):
        here.write(**QUICK, registry={"name": name}, **changes)
        return name

    return make


@pytest.fixture
def arrive(here, tmp_path):
    """Registers files as somebody else does: without a tag."""

    def register(name, *files):
        with mlflow_client() as client:
            if not every(client, name):
                client.create_registered_model(name)
            for place, data in enumerate(files):
                folder = tmp_path / f"{place}"
                folder.mkdir()
                (folder / "model.onnx").write_bytes(data)
                client.create_model_version(name, folder.as_uri())

    return register


def temper(capsys, *arguments):
    """The command, in this process: exit code, standard output, standard error."""
    capsys.readouterr()
    code = main([*arguments])
    return code, *capsys.readouterr()


def tags(name):
    with mlflow_client() as client:
        return {found.version: found.tags for found in every(client, name)}


def test_announced_five_times_at_once_it_is_evaluated_once(write, arrive, trained, capsys):
    name = write()
    file = trained(0)
    write()
    arrive(name, file)

    with ThreadPoolExecutor(5) as pool:
        contexts = [copy_context() for _ in range(5)]  # which Prefect API there is
        taken = list(pool.map(lambda context: context.run(intake, "run.yaml", 1), contexts))

    outcomes = sorted(one.outcome for one in taken)
    assert outcomes.count("judged") == 1
    assert {*outcomes} <= {"judged", "busy", "done"}
    assert look(name, 1).tags[VERDICT] == "passed"
    with mlflow_client() as client:
        runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
        assert len([run for run in runs if "mlflow.parentRunId" not in run.data.tags]) == 1

    code, out, err = temper(capsys, "intake", "run.yaml", "1", "--json")
    assert code == 0
    assert json.loads(out)["outcome"] == "done"
    assert "has its verdict: passed" in err


def test_a_sweep_takes_in_what_is_there_and_the_refused_one_is_tagged(
    write, arrive, trained, capsys
):
    files = [b"no model at all", trained(0)]
    name = write()
    arrive(name, *files)

    code, _, err = temper(capsys, "sweep", "run.yaml")

    found = tags(name)
    assert code == 1, err  # one is refused
    assert found[1][VERDICT].startswith(f"refused: models:/{name}/1: ")
    assert "\n" not in found[1][VERDICT]
    assert "temper.evidence" not in found[1]
    assert found[2][VERDICT] == "passed"

    start = time.monotonic()
    code, out, err = temper(capsys, "sweep", "run.yaml", "--json")
    assert time.monotonic() - start < 15
    assert (code, json.loads(out)) == (0, {"registered": [], "taken": []})
    assert "nothing new" in err


def test_a_version_whose_file_cannot_be_fetched_is_not_judged_and_stops_no_other(
    write, arrive, trained, tmp_path, capsys
):
    name = write()
    with mlflow_client() as client:
        client.create_registered_model(name)
        client.create_model_version(name, (tmp_path / "gone").as_uri())
    file = trained(0)
    write()
    arrive(name, file)

    code, _, err = temper(capsys, "sweep", "run.yaml")

    assert code == 3, err
    assert f"{name}: 1 could not be taken in and will be tried again: version 1 (" in err
    assert VERDICT not in tags(name)[1]
    assert tags(name)[2][VERDICT] == "passed"
    assert ATTEMPTS not in tags(name)[2]

    code, _, err = temper(capsys, "sweep", "run.yaml")
    assert code == 0  # it waits, and does not fail again with every sweep
    assert f"{name} version 1: attempts so far 1, the next after 2" in err

    for waits in (20, 40, 80):  # minutes
        with mlflow_client() as client:
            count = tags(name)[1][ATTEMPTS].split()[0]
            client.set_model_version_tag(name, "1", ATTEMPTS, f"{count} until {int(time.time())}")
        assert temper(capsys, "sweep", "run.yaml")[0] == 3
        left = float(tags(name)[1][ATTEMPTS].split()[-1]) - time.time()
        assert 60 * waits - 120 < left <= 60 * waits + 1


def test_tries_are_a_day_apart_at_most_and_a_tag_that_is_not_ours_counts_none(write, arrive):
    name = write()
    arrive(name, b"x")
    for tag, count in (("99 until 5", 99), ("99999999 until 5", 0), ("soon", 0)):
        with mlflow_client() as client:
            client.set_model_version_tag(name, "1", ATTEMPTS, tag)
        begun = begin_attempt(look(name, 1))
        assert begun.made == count + 1
        assert begun.until - time.time() <= 24 * 3600


def test_versions_are_taken_in_whatever_became_of_the_inbox(
    here, write, arrive, monkeypatch, capsys
):
    (here.root / "post").mkdir()
    (here.root / "post" / "broken.onnx").write_bytes(b"no model")
    name = write(intake={"source": str(here.root / "post")})
    arrive(name, b"no model at all")

    def fails(file):
        raise DataError(f"{file.uri}: cannot be read")

    monkeypatch.setattr(inbox, "_read", fails)
    code, _, err = temper(capsys, "sweep", "run.yaml")
    assert code == 3, err
    assert "post/broken.onnx: cannot be read" in err
    assert tags(name)[1][VERDICT].startswith("refused: ")

    name = write(intake={"source": "nowhere"})
    with mlflow_client() as client:
        client.delete_model_version_tag(name, "1", VERDICT)
    assert temper(capsys, "sweep", "run.yaml")[0] == 2
    assert tags(name)[1][VERDICT].startswith("refused: ")


def test_a_refused_file_is_told(write, arrive, monkeypatch, capsys):
    name, told = write(), []
    arrive(name, b"no model at all")
    monkeypatch.setattr(events, "tell", told.append)
    assert temper(capsys, "intake", "run.yaml", "1")[0] == 1
    [event] = told
    assert event["event"] == events.UNFIT
    assert event["payload"]["version"] == 1
    assert event["payload"]["reason"].startswith(f"models:/{name}/1: ")


def test_bytes_that_are_not_the_promised_ones_judge_nothing(write, arrive, monkeypatch, capsys):
    def damaged(*_):
        raise DigestError("it changed while it was read")

    name = write()
    arrive(name, b"no model at all")
    monkeypatch.setattr("flows.sources.check_foreign", damaged)
    assert temper(capsys, "intake", "run.yaml", "1")[0] == 2
    assert VERDICT not in tags(name)[1]


def test_a_registry_that_does_not_answer_is_exit_code_2_and_judges_nothing(
    write, arrive, monkeypatch, capsys
):
    name = write()
    arrive(name, b"no model at all")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for command in (["sweep", "run.yaml"], ["intake", "run.yaml", "1"]):
        code, _, err = temper(capsys, *command)
        assert code == 2
        assert "MLflow at http://127.0.0.1:9: does not answer" in err
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert VERDICT not in tags(name)[1]


def test_a_data_source_that_does_not_answer_says_nothing_about_the_file(
    write, arrive, monkeypatch, capsys
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    name = write(data={"name": "npz", "path": "s3://bucket/data.npz"})
    arrive(name, b"no model at all")

    code, _, err = temper(capsys, "intake", "run.yaml", "1")

    assert code == 2
    assert "s3://bucket" in err
    assert VERDICT not in tags(name)[1]


@pytest.mark.slow  # trains a candidate
def test_a_version_is_hardened_if_asked_and_the_winner_is_not_taken_in(
    write, arrive, trained, capsys
):
    file = trained(0)
    name = write(
        intake={"harden": True},
        candidates={"tuned": [{"name": "n_fgsm", "params": {"epochs": 1}}]},
        gate__max_clean_drop=0.9,
    )
    arrive(name, file)

    code, _, err = temper(capsys, "intake", "run.yaml", "1")

    assert code == 0, err
    assert "its candidates are due" in err
    assert {**tags(name)[1], VERDICT: "passed", "temper.hardening": "due"} == tags(name)[1]
    assert "nothing new" in temper(capsys, "sweep", "run.yaml")[2]
    assert list(tags(name)) == [1]  # whoever evaluates does not train

    code, _, err = temper(capsys, "harden-due", "run.yaml")

    found = tags(name)
    assert code == 0, err
    assert found[1][VERDICT] == found[2][VERDICT] == "passed"
    assert found[1]["temper.hardening"] == "version 2"
    assert RECIPE in found[2]
    assert ATTEMPTS not in found[1]
    assert "nothing new" in temper(capsys, "sweep", "run.yaml")[2]
    assert "nothing new" in temper(capsys, "harden-due", "run.yaml")[2]

    with mlflow_client() as client:  # as if it had been killed at the end
        client.set_model_version_tag(name, "1", "temper.hardening", "due")
    code, _, err = temper(capsys, "harden-due", "run.yaml")
    assert code == 0, err
    assert tags(name)[1]["temper.hardening"].startswith("version ")
    assert "apgd" not in "".join(line for line in err.splitlines() if ": done" in line)


@pytest.mark.parametrize(
    ("given", "work"),
    [
        ({}, "evaluate"),
        ({VERDICT: "passed"}, None),
        ({VERDICT: "refused: it is empty"}, None),
        ({RECIPE: "ab"}, None),
        ({RECIPE: "ab", VERDICT: "failed"}, None),
        ({VERDICT: "failed", "temper.hardening": "due"}, "harden"),
        ({VERDICT: "refused: it is empty", "temper.hardening": "due"}, None),
        ({VERDICT: "passed", "temper.hardening": "version 2"}, None),
        ({"temper.hardening": "due"}, "evaluate"),
    ],
)
def test_what_is_to_be_done_is_read_off_the_tags(write, arrive, given, work):
    name = write()
    arrive(name, b"x")
    with mlflow_client() as client:
        for tag, text in given.items():
            client.set_model_version_tag(name, "1", tag, text)
    assert due(look(name, 1)) == work


def test_files_that_arrive_in_a_folder_are_registered_and_taken_in(here, write, trained, capsys):
    inbox = here.root / "inbox"
    (inbox / "team").mkdir(parents=True)
    (inbox / "team" / "first.onnx").write_bytes(trained(0))
    (inbox / "second.onnx").write_bytes(b"no model at all")
    (inbox / "notes.txt").write_text("not a model")
    name = write(intake={"source": str(inbox)})

    code, out, err = temper(capsys, "sweep", "run.yaml", "--json")

    found = tags(name)
    assert code == 1, err
    assert json.loads(out)["registered"] == [1, 2]
    assert found[1][SOURCE] == (inbox / "team" / "first.onnx").as_uri()
    assert found[1][VERDICT] == "passed"
    assert found[2][VERDICT].startswith("refused: ")
    assert "nothing new" in temper(capsys, "sweep", "run.yaml")[2]


@pytest.mark.parametrize(
    ("changes", "arguments", "says"),
    [
        ({}, ["intake", "run.yaml", "9"], "version 9: no such registered model"),
        ({"registry": None}, ["sweep", "run.yaml"], "registry: got nothing"),
        ({"gate__robust_accuracy": None}, ["sweep", "run.yaml"], "gate.robust_accuracy: got"),
        ({"intake": {"source": "nowhere"}}, ["sweep", "run.yaml"], "intake.source: got 'nowhere'"),
        ({"intake": {"hardn": True}}, ["sweep", "run.yaml"], "did you mean 'harden'?"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(here, capsys, changes, arguments, says):
    here.write(**{"registry": {"name": "nobody"}, "gate__min_robust_gain": 0.0, **changes})

    code, _, err = temper(capsys, *arguments)

    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("temper: ")]
    assert says in line


@pytest.mark.slow  # a command of its own, killed
def test_what_a_killed_intake_left_is_finished_by_a_sweep(
    here, write, arrive, trained, monkeypatch, capsys
):
    file = trained(1)
    name = write()
    arrive(name, file)
    monkeypatch.setitem(here.env, LEASE, "3")
    command = here.start("intake", "run.yaml", "1")
    for line in command.stderr:
        if "fetch ONNX file" in line:
            break
    assert "busy" in temper(capsys, "intake", "run.yaml", "1", "--json")[1]
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    killed = time.monotonic()
    assert VERDICT not in tags(name)[1]

    while VERDICT not in tags(name)[1]:
        assert time.monotonic() - killed < 120
        code, _, err = temper(capsys, "sweep", "run.yaml")
        assert code == 0, err
    assert tags(name)[1][VERDICT] == "passed"
    assert "load data: cached" in err
