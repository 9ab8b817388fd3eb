"""The command `temper`. Exit codes: 0 passed, 1 gate failed, 2 wrong input, 3 run failed."""

import argparse
import atexit
import gc
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from flows import operations, serving
from flows.command import (
    GATE_FAILED,
    INTERRUPTED,
    PASSED,
    RUN_FAILED,
    WRONG_INPUT,
    command,
)
from hardening.errors import BrokenPromise, HardeningError, InputError
from tasks.settings import QUIET, environment

DESCRIPTION = """\
Hardens image classifiers and proves it on the ONNX file that ships.

One YAML file names a dataset, a model (an architecture, or any ONNX classifier as model.onnx), a
threat model, candidate chains of defenses and a gate.
  temper check CONFIG     what would run, what is known already, what it costs
  temper harden CONFIG    train or fetch, defend, export, attack the exported file, judge, promote
  temper evaluate CONFIG  attack and judge an existing model or ONNX file as it would ship
  temper promote CONFIG N is version N better than the champion? if so, make it champion
  temper intake CONFIG N  a version that arrived: what promote does, once, however often announced
  temper sweep CONFIG     every version and every new file that was not taken in yet; on a schedule
  temper harden-due CONFIG  the candidates on what arrived, when `intake.harden` asks for it
  temper retrain CONFIG   harden again if data, recipe or the champion's age say so; on a schedule
  temper history MODEL    every champion there was, and why (temper rollback MODEL: the one before)
  temper inspect FILE     what an ONNX file says of itself, and whether that is so
  temper receive          tell Prefect of every version that is registered in MLflow
  temper doctor           is everything there that Temper uses? if not, what to do
  temper list attacks     every attack with its parameters (also: defenses, datasets, models)
"""

EPILOG = """\
environment:
  TEMPER_HOME          where results are kept (default ./.temper)
  TEMPER_STORE         where artifacts are kept, file:///folder or s3://bucket/prefix
  TEMPER_WORKERS       steps at a time (default 1; each uses all cores)
  TEMPER_LEASE         seconds after which a killed process's work is taken over (default 120)
  TEMPER_OPEN_SECONDS, TEMPER_OPEN_MEMORY
                       most that opening a foreign ONNX file may take (default 120 s, 4 GiB)
  MLFLOW_TRACKING_URI  an MLflow server (default: a database in TEMPER_HOME)
  PREFECT_API_URL      a Prefect server (default: one of our own, started and ended as needed)
  TEMPER_WEBHOOK_SECRET  with which MLflow signs what `temper receive` believes
  AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY   for s3:// addresses

exit codes: 0 passed, 1 the gate was not met, 2 wrong usage or input, 3 the run failed
"""


INSPECT = """\
Print what an ONNX file says of itself, and check it.

A file that Temper shipped carries its lineage: what it was made from, the digests of data, recipe
and evidence, the threat model and the headline figures. The lineage names the digest of the graph:
if anything that computes was changed since, that is told, and the exit code is 1. With --evidence,
the evidence's own digest and figures are checked, too: only then do you know that the figures are
measured ones. Someone who can write the file can write its lineage.

  temper inspect model.onnx
  temper inspect model.onnx --evidence evidence.json

exit codes: 0 nothing contradicts, 1 a digest or a figure does, 2 wrong usage or not such a file
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; errors are one line on standard error."""
    options = _parser().parse_args(arguments)
    function: Callable[[argparse.Namespace], int] = options.command
    try:
        with environment(QUIET, replace=False):
            return function(options)
    except InputError as error:
        print(f"temper: {error}", file=sys.stderr)
        return WRONG_INPUT
    except (BrokenPromise, HardeningError) as error:
        print(f"temper: run failed: {error}", file=sys.stderr)
        return RUN_FAILED
    except KeyboardInterrupt:
        print(
            "temper: interrupted; the same command goes on where this one stopped", file=sys.stderr
        )
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  a bug of ours: told in full, and the run is red
        traceback.print_exc()
        print(f"temper: run failed: {type(error).__name__}: {error}", file=sys.stderr)
        return RUN_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "temper",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, text in (
        ("harden", "the whole chain: train or fetch, defend, export, attack, judge, promote"),
        ("evaluate", "an existing model or ONNX file as it would ship: no training, no candidates"),
    ):
        run = command(commands, name, text, _run)
        run.add_argument(
            "config", metavar="CONFIG", help="YAML file, see flows/configs/digits.yaml"
        )
        run.add_argument("--output", default="runs", metavar="DIR", help="default: runs")
        run.set_defaults(name=name)
    operations.add(commands)
    check = command(commands, "check", "validate CONFIG and show the plan; nothing runs", _check)
    check.add_argument("config", metavar="CONFIG", help="YAML file")
    verdict = command(commands, "verdict", "recompute a verdict from its evidence", _verdict)
    verdict.add_argument("evidence", metavar="EVIDENCE", help="an evidence.json")
    verdict.add_argument(
        "--gate",
        metavar="FILE",
        help="YAML or JSON with limits (default: gate.json beside EVIDENCE)",
    )
    inspect = command(commands, "inspect", "what an ONNX file says of itself", _inspect, INSPECT)
    inspect.add_argument("file", metavar="FILE", help="an ONNX file, of any origin")
    inspect.add_argument("--evidence", metavar="FILE", help="an evidence.json to hold it against")
    serving.add(commands)
    listing = command(commands, "list", "what a configuration can name", _list)
    listing.add_argument(
        "kind", choices=["attacks", "surveys", "certifiers", "defenses", "datasets", "models"]
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    from flows.config import load

    config = load(options.config)  # before anything is started: a typing error costs two seconds
    from tasks import server

    with server.begin() as api:
        from flows.evaluation import evaluate, existing
        from flows.harden import harden
        from flows.validate import validate

        validate(existing(config) if options.name == "evaluate" else config)
        api.wait()
        flow = evaluate if options.name == "evaluate" else harden
        published = flow(str(options.config), str(options.output))
    from flows.console import show_run

    return PASSED if show_run(published, options.json) else GATE_FAILED


def _check(options: argparse.Namespace) -> int:
    from flows.console import show_plan
    from flows.plan import plan

    show_plan(plan(options.config), options.json)
    return PASSED


def _verdict(options: argparse.Namespace) -> int:
    from flows.config import load_gate
    from flows.console import read_evidence, show_verdict
    from hardening.verdict import judge

    path = Path(options.evidence)
    gate = load_gate(options.gate or path.with_name("gate.json"))
    run = read_evidence(path)
    verdict = judge(run, gate)
    show_verdict(run, verdict, options.json)
    return PASSED if verdict.passed else GATE_FAILED


def _inspect(options: argparse.Namespace) -> int:
    from flows.inspection import examine, show

    evidence = Path(options.evidence) if options.evidence else None
    found = examine(Path(options.file), evidence)
    show(found, options.json)
    return PASSED if found.passed else GATE_FAILED


def _list(options: argparse.Namespace) -> int:
    from flows.catalogue import catalogue, show_catalogue

    entries = catalogue(options.kind)
    if options.json:
        print(json.dumps(entries, indent=1))
    else:
        show_catalogue(options.kind, entries)
    return PASSED


def start() -> int:
    """`main` as a process of its own, which begins and ends seconds sooner than one would.

    What torch, Prefect and MLflow make when they are imported lives until the end: the collector
    need not look for garbage among it all the while, nor once more at the exit.
    """
    gc.set_threshold(5_000)
    atexit.register(gc.freeze)
    return main()


if __name__ == "__main__":
    sys.exit(start())
