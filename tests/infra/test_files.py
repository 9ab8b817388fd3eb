"""What is handed to Prefect, Docker and Kubernetes is whole: no loose ends, no default secrets."""

import json
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.events import DeploymentEventTrigger
from prefect.events.schemas.automations import AutomationCore

from infra import setup
from tasks import events
from tasks.settings import WORK_POOL

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "infra" / "compose.yaml").read_text()
SERVICES = yaml.safe_load(COMPOSE)["services"]
OURS = {name: s for name, s in SERVICES.items() if s["image"].startswith("temper:")}
DEPLOYMENTS = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"]
BY_NAME = {deployment["name"]: deployment for deployment in DEPLOYMENTS}


def test_every_flow_is_deployed():
    files = {deployment["entrypoint"].partition(":")[0] for deployment in DEPLOYMENTS}
    flows = [p for p in (ROOT / "flows").glob("*.py") if "\n@flow(" in p.read_text()]
    assert files == {f"flows/{path.name}" for path in flows}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_deployment_has_a_queue_that_exists_and_limits_prefect_knows(name):
    """Prefect itself ignores a field that it does not know."""
    deployment = BY_NAME[name]
    # No concurrency_limit: its lease dies with the server, and what runs is cancelled.
    known = {"name", "entrypoint", "tags", "parameters", "work_pool"}
    assert set(deployment) <= known | {"schedules", "triggers"}
    pool = deployment["work_pool"]
    assert pool["name"] == WORK_POOL
    assert pool["work_queue_name"] in {setup.TRAINING, "default"}
    trains = {"harden", "harden-due", "retrain"}
    assert (pool["work_queue_name"] == setup.TRAINING) == (name in trains)
    config = deployment.get("parameters", {}).get("config")
    assert config is None or (ROOT / config).exists()
    for schedule in deployment.get("schedules", []):
        assert set(schedule) <= {"cron", "interval", "timezone", "slug", "active"}
        kind = CronSchedule if "cron" in schedule else IntervalSchedule
        kind.model_validate({k: v for k, v in schedule.items() if k in kind.model_fields})


@pytest.mark.parametrize(
    ("name", "about"), [("intake", events.created), ("harden-due", events.due)]
)
def test_a_deployment_hangs_on_the_event_that_we_send(name, about):
    [trigger] = [DeploymentEventTrigger.model_validate(t) for t in BY_NAME[name]["triggers"]]
    config = yaml.safe_load((ROOT / BY_NAME[name]["parameters"]["config"]).read_text())
    event = about(config["registry"]["name"], 3)
    assert trigger.expect == {event["event"]}
    resource = event["resource"]
    assert trigger.match.matches(resource)
    other = about(f"{config['registry']['name']}.more", 3)["resource"]
    assert not trigger.match.matches(other)


def test_automations_are_ones_and_hang_on_events_that_exist():
    text = (ROOT / "infra" / "notifications.yaml").read_text()
    given = text.replace("BLOCK\n", "00000000-0000-0000-0000-000000000000\n")
    automations = [AutomationCore.model_validate(a) for a in yaml.safe_load(given)["automations"]]
    expected = {event for automation in automations for event in automation.trigger.expect}
    ours = {event for event in expected if event.startswith("temper.")}
    assert ours == {events.REFUSED, events.PROMOTED, events.UNFIT}


def test_prefect_remembers_silent_runs_wherever_its_server_runs():
    name = "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER"
    assert SERVICES["prefect"]["environment"][name] == "P7D"
    for file in ("services.py", "kubernetes/server.yaml"):
        assert name in (ROOT / "infra" / file).read_text()


def test_no_secret_in_a_container_has_a_default():
    variables = dict(re.findall(r"\$\{(\w+)([^}]*)\}", COMPOSE))
    assert set(variables.values()) == {":?"}
    made = subprocess.run(
        [sys.executable, "-m", "infra.keeping"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(variables) == {line.partition("=")[0] for line in made.stdout.splitlines()}
    given = re.sub(r" #.*", "", COMPOSE)
    words = re.findall(r"(?i)(?:password|secret|key)\w*: (?!\$\{)(\S+)", given)
    assert words == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_healthy_or_says_so_and_waits_for_services_that_exist(name):
    service = SERVICES[name]
    assert ("healthcheck" in service) or service["restart"] == "no"
    for other, how in service.get("depends_on", {}).items():
        ended = how["condition"] == "service_completed_successfully"
        assert ended == (SERVICES[other]["restart"] == "no")
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")
    networks = set(service["networks"])
    assert networks <= set(yaml.safe_load(COMPOSE)["networks"])


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_may_do_nothing_it_need_not(name):
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "user" not in service  # the image's own, who is not root
    program = shlex.split(service["command"])[0]
    assert (
        program == "sh" or (Path(sys.executable).with_name(program)).exists() or program == "temper"
    )


def test_images_run_as_somebody_and_carry_the_locked_versions():
    text = (ROOT / "infra" / "Dockerfile").read_text()
    stages = {stage.split("\n")[0].split()[-1]: stage for stage in text.split("\nFROM ")[1:]}
    assert set(stages) == {"base", "cpu", "cuda"}
    for name in ("cpu", "cuda"):
        assert "\nUSER temper\n" in stages[name]
        assert "pip install -c constraints.txt -e '.[server]'" in stages[name]


def test_no_file_with_secrets_goes_into_an_image():
    """The patterns are read as Docker reads them: `**/` is any number of folders."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().split() if "!" not in line]
    for name in (".env", "infra/.env", "infra/prod.env", "a/b/c.env", ".temper/stack/env.sh"):
        assert any(
            PurePosixPath(name).match(pattern.removeprefix("**/"))
            if pattern.startswith("**/")
            else name == pattern or name.startswith(f"{pattern}/")
            for pattern in ignored
        ), name


def test_the_worker_gets_gpus_and_the_image_that_can_use_them_together():
    cuda = yaml.safe_load((ROOT / "infra" / "compose.cuda.yaml").read_text())["services"]
    assert set(cuda) == {"worker"}
    [device] = cuda["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert (cuda["worker"]["image"], cuda["worker"]["build"]["target"]) == ("temper:cuda", "cuda")
    assert OURS["worker"]["image"] == "temper:cpu"


def test_the_database_is_asked_where_only_the_real_server_listens():
    """PostgreSQL's image runs a temporary server on the socket before databases exist."""
    assert " -h 127.0.0.1 " in SERVICES["database"]["healthcheck"]["test"][1]


def test_prefect_is_the_same_version_everywhere():
    version = metadata.version("prefect")
    assert f"prefect=={version}\n" in (ROOT / "constraints.txt").read_text()
    assert f"prefect-version: {version}\n" in (ROOT / "infra" / "prefect.yaml").read_text()
    for values in ("server.yaml", "worker.yaml"):
        assert f"prefectTag: {version}-" in (ROOT / "infra" / "kubernetes" / values).read_text()


def test_a_job_on_the_cluster_asks_only_for_variables_that_exist():
    template = json.loads((ROOT / "infra" / "kubernetes" / "job-template.json").read_text())
    job = json.dumps(template["job_configuration"])
    assert set(re.findall(r"\{\{ (\w+) \}\}", job)) == set(template["variables"]["properties"])
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
