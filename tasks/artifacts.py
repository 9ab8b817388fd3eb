"""What Prefect's pages show of a run: a table, the verdict in words, and where the rest is."""

import hashlib
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact


def publish(name: str, rows: list[dict[str, Any]], markdown: str, links: Mapping[str, str]) -> None:
    """Attach the verdict of the run `name` to the flow or task run that calls this.

    Args:
        rows: One per model; a number that is not finite is shown as an empty cell.
        markdown: The verdict in words.
        links: Address by title; a local file as `file://...`.
    """
    key = artifact_key(name)
    create_table_artifact(
        table=[{column: _cell(value) for column, value in row.items()} for row in rows],
        key=f"{key}-models",
        description=f"Clean and robust accuracy of the models of {name}",
    )
    create_markdown_artifact(
        markdown=markdown, key=f"{key}-verdict", description=f"Verdict on {name}"
    )
    for title, address in links.items():
        create_link_artifact(
            link=address, link_text=title, key=f"{key}-{artifact_key(title)}", description=title
        )


def artifact_key(name: str) -> str:
    """`name` in the characters that Prefect takes: lower-case letters, digits and dashes."""
    key = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return key or hashlib.sha256(name.encode()).hexdigest()[:8]


def _cell(value: object) -> object:
    """`value` as JSON can hold it: Prefect would store Infinity as such, which no browser reads."""
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _cell(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cell(inner) for inner in value]
    return value
