"""What a cluster costs: one evaluation of 1,000 images in threads, on Ray and on Dask.

    python -m benchmarks.engines [threads-1 threads-2 ray-1 ray-2 dask-1 dask-2]

The number is that of steps at a time, each on one core. Clusters start in a network and among
processes of their own (`unshare`), because Ray listens on every address it has; they run before
the clock starts. Every run has an empty store and the same ONNX file, and must leave the same
evidence but for what a clock measured: it names the digests of all adversarial images.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import yaml

TEMPER = Path(sys.executable).with_name("temper")
ENGINES = ["threads-1", "threads-2", "ray-1", "ray-2", "dask-1", "dask-2"]

TRAINING = {
    "name": "engines",
    "data": {"name": "digits", "test": 0.6},
    "model": {"name": "small_cnn"},
    "threat": {"norm": "linf", "eps": 0.1},
    "training": {"epochs": 5},
    "evaluation": {"images": 10, "curve": [2.0], "attacks": [{"name": "fgsm"}]},
    "gate": {},
}

ATTACKS = [
    {"name": "apgd", "params": {"steps": 50, "loss": "ce"}},
    {"name": "apgd", "params": {"steps": 50, "loss": "dlr"}},
    {"name": "square", "params": {"queries": 200}},
]

RAY = """
import subprocess, sys
subprocess.run([sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
    "--num-cpus", sys.argv[1], "--node-ip-address=127.0.0.1", "--port=6379",
    "--ray-client-server-port=10001", "--include-dashboard=false", "--disable-usage-stats"])
"""

DASK = """
import sys, time
from distributed import LocalCluster
if __name__ == "__main__":
    kept = LocalCluster(n_workers=int(sys.argv[1]), threads_per_worker=1, host="127.0.0.1",
        scheduler_port=8786, dashboard_address=None)
    time.sleep(1e6)
"""

NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]

CLUSTERS = {"ray": (RAY, "ray://127.0.0.1:10001"), "dask": (DASK, "dask://127.0.0.1:8786")}


def main() -> int:
    if sys.argv[1:2] != ["inside"]:
        within = [*NAMESPACE, "--user", "--map-root-user", "--net"]
        again = [sys.executable, "-m", "benchmarks.engines", "inside", *sys.argv[1:]]
        return subprocess.run([*within, *again], check=False).returncode
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        _measure(sys.argv[2:] or ENGINES)
    return 0


def _measure(engines: list[str]) -> None:
    home = {"TEMPER_HOME": "home", "TEMPER_SERVER_LINGER": "600", "OMP_NUM_THREADS": "1"}
    os.environ.update(home)
    _temper("harden", TRAINING, {}, "train")
    model = {"onnx": str(Path("train/engines/latest/control.onnx").absolute())}
    evaluation = {"images": 1000, "shard": 125, "curve": [0.5, 2.0], "attacks": ATTACKS}
    recipe = {**TRAINING, "model": model, "evaluation": evaluation, "training": None}
    first = None
    for number, engine in enumerate(engines):
        output = f"{number}-{engine}"
        with _cluster(engine) as (variables, start):
            seconds = _temper("evaluate", recipe, variables, output)
        found = _timeless(Path(output, "engines/latest/evidence.json"))
        first = first or found
        print(
            f"{engine}: start {start:.1f} s, run {seconds:.1f} s, "
            f"bits {'equal' if found == first else 'DIFFERENT'}, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


@contextmanager
def _cluster(engine: str):
    """The variables that lead to a cluster, and the seconds until it answered."""
    name, _, workers = engine.partition("-")
    if name == "threads":
        yield {"TEMPER_WORKERS": workers}, 0.0
        return
    program, address = CLUSTERS[name]
    Path("cluster.py").write_text(program)
    began = time.monotonic()
    with Path(f"{engine}.log").open("wb") as log:
        # All of it ends with the first process of its namespace: the next one needs its ports.
        process = subprocess.Popen(
            [*NAMESPACE, sys.executable, "cluster.py", workers], stdout=log, stderr=log
        )
    port = int(address.rpartition(":")[2])
    try:
        _await(port, listening=True)
        yield {"TEMPER_RUNNER": address}, time.monotonic() - began
    finally:
        process.kill()
        process.wait(60)
        _await(port, listening=False)


def _await(port: int, *, listening: bool) -> None:
    for _ in range(1200):
        with socket.socket() as probe:
            if (probe.connect_ex(("127.0.0.1", port)) == 0) == listening:
                return
        time.sleep(0.1)
    raise TimeoutError(f"port {port} is {'closed' if listening else 'open'} after two minutes")


def _temper(command: str, recipe: dict, variables: dict[str, str], name: str) -> float:
    Path("recipe.yaml").write_text(yaml.safe_dump({k: v for k, v in recipe.items() if v}))
    store = {"TEMPER_STORE": Path(f"store-{name}").absolute().as_uri()}
    began = time.monotonic()
    done = subprocess.run(
        [TEMPER, command, "recipe.yaml", "--output", name],
        env={**os.environ, **store, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode > 1:  # a gate that is not met is a result
        raise RuntimeError(done.stderr)
    return time.monotonic() - began


def _timeless(path: Path) -> dict:
    evidence = json.loads(path.read_text())
    for model in evidence["models"].values():
        del model["latency"], model["memory"], model["training_seconds"]
        for row in model["attacks"]:
            del row["seconds"]
    return evidence


if __name__ == "__main__":
    sys.exit(main())
