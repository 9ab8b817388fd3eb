"""`temper history` and `temper rollback`: who is champion of a registered model, and who was."""

import json

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks import promotion
from tasks.ledger import Entry
from tasks.mlflow_client import mlflow_client


def history(name: str, as_json: bool) -> None:
    """Print every change of the champion, the newest last.

    Raises:
        ModelError: There is no such registered model.
        BrokenPromise: The ledger was tampered with.
    """
    with mlflow_client() as client:
        entries = promotion.history(client, name)
    if as_json:
        print(json.dumps([entry.model_dump() for entry in entries], indent=1))  # noqa: T201
        return
    console = Console(highlight=False, soft_wrap=True)
    if not entries:
        console.print(Text(f"{name} has no champion yet"))
        return
    table = Table("when (UTC)", "what", "version", "robust accuracy", "by", "why", box=None)
    for entry in entries:
        table.add_row(*map(Text, _row(entry)))
    console.print(table)


def roll_back(name: str, version: int | None, reason: str, as_json: bool) -> None:
    """Make an earlier champion the champion again, and say so.

    Raises:
        ModelError: There is no such model, or no such earlier champion.
    """
    with mlflow_client() as client:
        entry = promotion.roll_back(client, name, reason, version)
    if as_json:
        print(entry.model_dump_json(indent=1))  # noqa: T201
        return
    line = f"{name}: version {entry.version} is champion again, version {entry.replaces} was"
    Console(highlight=False, soft_wrap=True).print(Text(line))


def _row(entry: Entry) -> tuple[str, ...]:
    replaces = "" if entry.replaces is None else f" over {entry.replaces}"
    return (
        entry.when[:19].replace("T", " "),
        entry.action,
        f"{entry.version}{replaces}",
        entry.robust_accuracy,
        entry.who,
        entry.reason,
    )
