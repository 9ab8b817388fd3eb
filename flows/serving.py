"""The commands about the services that Temper uses, and about the one that it is itself."""

import argparse
from typing import Any

from flows.command import PASSED, WRONG_INPUT, command

RECEIVE = """\
Listen for webhooks of MLflow's model registry (POST /mlflow) and tell Prefect of every new version,
as the event temper.model-version.created. Deliveries that are not signed with
TEMPER_WEBHOOK_SECRET, too old, too large or repeated are refused.

  TEMPER_WEBHOOK_SECRET=... PREFECT_API_URL=http://host:4200/api temper receive --port 4300

Runs until it is told to end. GET /health says whether it is there.
"""

DOCTOR = """\
Check everything that Temper uses from here, with the environment as it is: versions, the folder and
its disk, the store, MLflow and its webhook, Prefect with its pool and workers, CUDA. One line each;
what is wrong comes with what to do. Writes only probes, and removes them.

  temper doctor

exit codes: 0 all is well, 2 something is not
"""


def add(commands: Any) -> None:
    """Declare all of them."""
    receive = command(
        commands, "receive", "tell Prefect of new versions in MLflow", _receive, RECEIVE
    )
    receive.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    receive.add_argument("--port", default=4300, type=int, help="default: 4300")
    command(commands, "doctor", "is everything there that Temper uses?", _doctor, DOCTOR)


def _receive(options: argparse.Namespace) -> int:
    from tasks.receiver import serve

    serve(options.host, options.port)
    return PASSED


def _doctor(options: argparse.Namespace) -> int:
    from flows.console import show_findings
    from tasks.doctor import examine

    findings = examine()
    show_findings(findings, options.json)
    return PASSED if all(finding.ok for finding in findings) else WRONG_INPUT
