"""`temper history` and `temper rollback`: who is champion of a registered model, and who was."""

import json

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks import promotion
from tasks.champion import Reign, look
from tasks.ledger import Entry
from tasks.mlflow_client import mlflow_client


def history(name: str, as_json: bool) -> None:
    """Print every change of the champion, the newest last; nothing is changed.

    Raises:
        ModelError: There is no such registered model.
        BrokenPromise: The ledger was tampered with, or it is not the one in this store.
    """
    with mlflow_client() as client:
        reign = look(client, name)
    entries = reign.past
    if as_json:
        print(json.dumps([entry.model_dump() for entry in entries], indent=1))  # noqa: T201
        return
    console = Console(highlight=False, soft_wrap=True)
    if not entries:
        chosen = f"version {reign.alias}, chosen by hand" if reign.alias else "no champion yet"
        console.print(Text(f"{name} has {chosen}"))
        return
    table = Table("when (UTC)", "what", "version", "robust accuracy", "by", "why", box=None)
    for entry in entries:
        table.add_row(*map(Text, _row(entry)))
    console.print(table)
    if reign.alias != reign.champion:
        console.print(Text(_astray(reign)))


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
    now = "champion again" if entry.action == "roll back" else "recorded as champion"
    line = f"{name}: version {entry.version} is {now}, version {entry.replaces} was"
    Console(highlight=False, soft_wrap=True).print(Text(line))


def _astray(reign: Reign) -> str:
    there = "at no version" if reign.alias is None else f"at version {reign.alias}"
    cure = "see `temper rollback --to`" if reign.by_hand else "the next run or sweep sets it"
    return f"the alias `champion` is {there}, not at version {reign.champion}: {cure}"


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
