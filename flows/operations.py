"""The commands about a registered model: what arrives, what is retrained, who is champion."""

import argparse
from importlib import import_module
from typing import Any

from flows.command import GATE_FAILED, PASSED, command

PROMOTE = """\
Evaluate version N of the registered model that CONFIG names, and the champion, on the same images
with the same attacks; make N the champion if the gate is met, it is more robust beyond the noise,
and neither its clean accuracy nor its latency is worse than the gate forgives. The version gets its
verdict as tags in any case. Of several that try at once, the best is champion in the end.

  temper promote flows/configs/digits.yaml 3

exit codes: 0 promoted, or champion already; 1 it is not; 2 wrong usage or input; 3 the run failed
"""

INTAKE = """\
Evaluate version N of the registered model that CONFIG names, once, however often it is announced:
what `temper promote` does, unless the version has its verdict (tag temper.verdict) or somebody else
is at work on it, on any machine. A file that cannot be evaluated is tagged "refused: <why>"; delete
the tag to have it taken in again. With `intake: {harden: true}` in CONFIG it is then due for
`temper harden-due`.

If this is killed, `temper sweep` finishes it once its claim has run out (TEMPER_LEASE seconds).

  temper intake flows/configs/digits.yaml 3

exit codes: 0 it passed, or there was nothing to do; 1 the gate was not met, or the file is refused;
            2 wrong usage or input; 3 the run failed
"""

SWEEP = """\
Take in every version of the registered model that has no verdict yet, the oldest first, whether it
was announced or not; for a schedule. Says "nothing new" otherwise. With `intake: {source: WHERE}`
in CONFIG, a folder or an s3:// prefix, every ONNX file there whose bytes are new is registered as a
version first. A file or version that fails does not stop the others and is tried again later, after
10 minutes, then 20, up to a day.

  temper sweep flows/configs/digits.yaml

exit codes: 0 all passed, or nothing was new; 1 one did not meet the gate, or is refused;
            2 wrong usage or input, or a server is down; 3 one could not be taken in
"""

HARDEN_DUE = """\
Run the candidates of CONFIG on every version that `intake` or `sweep` judged while CONFIG said
`intake: {harden: true}`, the oldest first; the winner becomes a version of its own. It trains: have
one of it at a time on a machine. Says "nothing new" otherwise.

  temper harden-due flows/configs/digits.yaml

exit codes: 0 the versions passed, or nothing was due; 1 one did not meet the gate as it came;
            2 wrong usage or input, or a server is down; 3 the candidates could not be run on one
"""

RETRAIN = """\
Do what `temper harden` does if there is a reason to, else say "nothing new"; for a schedule.
Reasons are: no version was made from the data as it is now; none by this recipe (CONFIG without
gate, registry and seed); or the champion is older than `retrain: {max_age_days: D}` allows: then
training starts from another seed. A run that failed is tried again; one that ended with a verdict,
whichever it was, is not.

  temper retrain flows/configs/digits.yaml

exit codes: 0 passed, or nothing was new; 1 the gate was not met; 2 wrong usage or input;
            3 the run failed
"""


def add(commands: Any) -> None:
    """Declare all of them."""
    promote = command(commands, "promote", "version N against the champion", _promote, PROMOTE)
    promote.add_argument("config", metavar="CONFIG", help="YAML file with a registry and a gate")
    promote.add_argument("version", metavar="N", type=int, help="version of the registered model")
    intake = command(commands, "intake", "evaluate version N that arrived, once", _intake, INTAKE)
    intake.add_argument("config", metavar="CONFIG", help="YAML file with a registry and a gate")
    intake.add_argument("version", metavar="N", type=int, help="version of the registered model")
    sweep = command(commands, "sweep", "take in all that arrived and was not", _sweep, SWEEP)
    sweep.add_argument("config", metavar="CONFIG", help="YAML file with a registry and a gate")
    due = command(commands, "harden-due", "the candidates on what arrived", _due, HARDEN_DUE)
    due.add_argument("config", metavar="CONFIG", help="YAML file with a registry and a gate")
    retrain = command(commands, "retrain", "harden if there is a reason to", _retrain, RETRAIN)
    retrain.add_argument("config", metavar="CONFIG", help="YAML file with a registry and a gate")
    for run in (promote, intake, sweep, due, retrain):
        run.add_argument("--output", default="runs", metavar="DIR", help="default: runs")
    history = command(commands, "history", "every champion of a registered model", _history)
    history.add_argument("model", metavar="MODEL", help="name of the registered model")
    rollback = command(commands, "rollback", "make an earlier champion champion again", _rollback)
    rollback.add_argument("model", metavar="MODEL", help="name of the registered model")
    rollback.add_argument("--to", type=int, metavar="N", help="default: the champion before")
    rollback.add_argument("--reason", required=True, metavar="TEXT", help="kept in the history")


def _promote(options: argparse.Namespace) -> int:
    from flows.config import load
    from flows.promote import challenge

    challenge(load(options.config), options.version)
    published = _run("promote", options, options.version)
    from flows.console import show_run

    show_run(published, options.json)
    return PASSED if "champion" in published.aliases else GATE_FAILED


def _intake(options: argparse.Namespace) -> int:
    taken = _run("intake", options, options.version)
    from flows.console import show_taken

    return PASSED if show_taken([taken], taken if options.json else None) else GATE_FAILED


def _sweep(options: argparse.Namespace) -> int:
    swept = _run("sweep", options)
    from flows.console import show_taken

    return PASSED if show_taken(swept.taken, swept if options.json else None) else GATE_FAILED


def _due(options: argparse.Namespace) -> int:
    from flows.config import load

    load(options.config)
    from tasks import server

    with server.begin() as api:
        from flows.harden_due import harden_due

        api.wait()
        swept = harden_due(str(options.config), str(options.output))
    from flows.console import show_taken

    return PASSED if show_taken(swept.taken, swept if options.json else None) else GATE_FAILED


def _retrain(options: argparse.Namespace) -> int:
    retrained = _run("retrain", options)
    from flows.console import show_retrained

    return PASSED if show_retrained(retrained, options.json) else GATE_FAILED


def _run(name: str, options: argparse.Namespace, *arguments: int) -> Any:
    """What the flow `flows.NAME.NAME` returns, on a Prefect API that is there until it ends."""
    from flows.config import load

    load(options.config)  # before anything is started: a typing error costs two seconds
    from tasks import server

    with server.begin() as api:
        # Prefect reads its settings when it is imported.
        flow = getattr(import_module(f"flows.{name}"), name)
        api.wait()
        return flow(str(options.config), *arguments, str(options.output))


def _history(options: argparse.Namespace) -> int:
    from flows.reign import history

    history(options.model, options.json)
    return PASSED


def _rollback(options: argparse.Namespace) -> int:
    from flows.reign import roll_back

    roll_back(options.model, options.to, options.reason, options.json)
    return PASSED
