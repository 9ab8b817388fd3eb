"""The same command on a real cluster: the same bits, though a worker is killed in its midst."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SHARDS = {
    "evaluation__shard": 15,
    "evaluation__attacks": [
        {"name": "apgd", "params": {"steps": 20, "loss": "dlr"}},
        {"name": "square", "params": {"queries": 1000}},
    ],
    "candidates": None,
    "registry": None,
    "gate": {"max_alarms": 9},
}
"""Four shards and two attacks: eight steps, of which the last four take a second each."""

DASK = """
import os, sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", scheduler_port=0,
                      dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""

RAY = """
import os, signal, subprocess, sys, time
from contextlib import suppress
from pathlib import Path
temper, steps, *command = sys.argv[1:]
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
head = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2",
        "--node-ip-address=127.0.0.1", "--port=6379", "--ray-client-server-port=10001",
        "--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000"]
with open("ray.log", "wb") as log:
    ray = subprocess.Popen(head, stdout=log, stderr=log)
import socket
while socket.socket().connect_ex(("127.0.0.1", 10001)):
    assert ray.poll() is None
    time.sleep(0.2)
run = subprocess.Popen([temper, *command])
victims = []
while run.poll() is None:
    done = [p for p in Path(steps).glob("*.json") if '"step": "attack_file"' in p.read_text()]
    if 4 <= len(done) < 8 and not victims:
        # A worker's title is that of its task, and another one between two tasks.
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # one that ended while we looked
                if path.read_bytes().startswith(b"ray::perform"):
                    os.kill(int(path.parent.name), signal.SIGKILL)
                    victims = [path]
                    break
    time.sleep(0.02)
assert victims
sys.exit(run.returncode)
"""
"""Ray and the command in a network and among processes of their own, as Ray listens everywhere."""

ALONE = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc"]


@pytest.fixture
def expected(elsewhere):
    """What threads of one process find; the store is another one afterwards."""
    assert elsewhere.temper("harden", elsewhere.write(**SHARDS)).code == 0
    elsewhere.env["TEMPER_STORE"] = (elsewhere.root / "other").as_uri()
    return _timeless(elsewhere.evidence())


def test_dask_finds_the_same_bits_though_a_worker_is_killed(elsewhere, expected):
    client = pytest.importorskip("distributed").Client
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    (elsewhere.root / "cluster.py").write_text(DASK)
    command = [sys.executable, "cluster.py"]
    with subprocess.Popen(command, cwd=elsewhere.root, env=elsewhere.env, **pipes) as cluster:
        address = cluster.stdout.readline().strip()
        with client(address) as asked:
            workers = list(asked.run(os.getpid).values())
        elsewhere.env["TEMPER_RUNNER"] = address.replace("tcp", "dask")
        run = elsewhere.start("harden", "run.yaml")
        while _attacks(elsewhere) < 4 and run.poll() is None:
            time.sleep(0.05)
        os.kill(workers[0], signal.SIGKILL)
        assert _attacks(elsewhere) < 8
        _, err = run.communicate(timeout=300)
        cluster.stdin.close()
    assert run.returncode == 0, err
    assert _timeless(elsewhere.evidence()) == expected


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*ALONE, "true"], check=False).returncode != 0,
    reason="Ray is started in a network of its own only",
)
def test_ray_finds_the_same_bits_though_a_worker_is_killed(elsewhere, expected):
    pytest.importorskip("ray")
    temper, steps = Path(sys.executable).with_name("temper"), elsewhere.root / "other" / "steps"
    elsewhere.env |= {"TEMPER_RUNNER": "ray://127.0.0.1:10001", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [*ALONE, "--kill-child", sys.executable, "-c", RAY, temper, steps, "harden", "run.yaml"],
        cwd=elsewhere.root,
        env=elsewhere.env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert _timeless(elsewhere.evidence()) == expected


def _attacks(place):
    steps = (place.root / "other" / "steps").glob("*.json")
    return sum('"step": "attack_file"' in path.read_text() for path in steps)


def _timeless(evidence):
    for model in evidence["models"].values():
        del model["latency"], model["memory"], model["training_seconds"]
        for row in model["attacks"]:
            del row["seconds"]
    return evidence
