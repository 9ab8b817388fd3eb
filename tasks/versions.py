"""Reading the registry: which versions of a model there are, under which aliases and tags."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from hardening.errors import ModelError
from hardening.spec import Record
from tasks.mlflow_client import shown, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

T = TypeVar("T")

CHAMPION = "champion"

VERDICT = "temper.verdict"
"""The tag of what was found: `passed`, `failed`, or `refused: ` and why. It is written last: who
carries it is done with."""

PAGE = 1000
"""Versions that are listed at a time."""

_URI = re.compile(r"models:/(?P<name>[^/:@'\"]+)(@(?P<alias>[\w-]+)|/(?P<version>\d+))")


class Registered(Record):
    """One version in the registry; the digests are None when someone else registered it.

    `sha256` is that of the model file, `evidence` that of the evidence of its run, `created` when
    it was registered, seconds of the clock.
    """

    name: str
    version: int
    uri: str
    sha256: str | None
    evidence: str | None
    created: float
    aliases: list[str]
    tags: dict[str, str]


def check_name(name: str) -> None:
    """Raise a ModelError unless a registered model can be called `name`."""
    if not _URI.fullmatch(f"models:/{name}/1"):
        raise ModelError(f"registered model {name!r}: expected a name without / : @ and quotes")


def model(client: "MlflowClient", name: str) -> "RegisteredModel | None":
    """The registered model, or None."""
    return _or_none(lambda: client.get_registered_model(name))


def make(client: "MlflowClient", name: str) -> None:
    """Make the registered model unless it is there."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    if model(client, name) is None:
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            # Another machine was faster.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def get(client: "MlflowClient", name: str, version: int) -> Registered | None:
    """One version of a registered model, or None."""
    found = _or_none(lambda: client.get_model_version(name, str(version)))
    return None if found is None else _registered(found)


def every(client: "MlflowClient", name: str) -> list[Registered]:
    """All versions of a registered model, the oldest first; aliases may be missing."""
    found: list[Registered] = []
    page = client.search_model_versions(f"name = '{name}'", max_results=PAGE)
    found += map(_registered, page)
    while page.token:
        page = client.search_model_versions(
            f"name = '{name}'", max_results=PAGE, page_token=page.token
        )
        found += map(_registered, page)
    return sorted(found, key=lambda version: version.version)


def under_alias(client: "MlflowClient", name: str, alias: str) -> Registered | None:
    """The version that `alias` points to, or None."""
    found = model(client, name)
    version = found.aliases.get(alias) if found else None
    return None if version is None else get(client, name, int(version))


def resolve(client: "MlflowClient", uri: str) -> Registered:
    """The version at `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        ModelError: There is none; the text says what is missing and what there is.
    """
    parts = _URI.fullmatch(uri)
    if parts is None:
        raise ModelError(f"{uri}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, version = parts["name"], parts["alias"], parts["version"]
    there = model(client, name)
    place = f"{uri}: MLflow at {shown(tracking_uri())}"
    if there is None:
        raise ModelError(f"{place} has no registered model {name!r}")
    found = under_alias(client, name, alias) if alias else get(client, name, int(version))
    if found is None:
        missing = f"alias {alias!r}" if alias else f"version {version}"
        aliases = ", ".join(sorted(there.aliases)) or "none"
        raise ModelError(f"{place} has no {missing} of {name!r}; aliases: {aliases}")
    return found


def _registered(found: "ModelVersion") -> Registered:
    version = int(found.version)  # an int from a database, a str from a server
    return Registered(
        name=found.name,
        version=version,
        uri=f"models:/{found.name}/{version}",
        sha256=found.tags.get("temper.sha256"),
        evidence=found.tags.get("temper.evidence"),
        created=found.creation_timestamp / 1000,
        aliases=sorted(found.aliases),
        tags=dict(found.tags),
    )


def _or_none(ask: Callable[[], T]) -> T | None:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        return ask()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
