"""What was made of a recipe before, and how old the champion is."""

from typing import NamedTuple

from hardening.spec import Record
from tasks.champion import since
from tasks.mlflow_client import mlflow_client
from tasks.publish import Published
from tasks.tags import MADE_AGAIN, RECIPE
from tasks.versions import VERDICT, every


class Attempts(NamedTuple):
    """Runs of one recipe on one state of the data that ended with a verdict, passed or not.

    Args:
        made: How many versions they left.
        last: When the last one did, seconds of the clock; None if there is none.
        data_known: Whether any version has a verdict on this state of the data.
        champion_since: When the champion became it, see `tasks.champion.since`.
    """

    made: int
    last: float | None
    data_known: bool
    champion_since: float | None


class Retrained(Record):
    """Why the recipe ran again, and what came of it; `reason` is empty when nothing was new."""

    reason: str
    published: Published | None = None


def attempts(name: str, recipe: str, data: str) -> Attempts:
    """What the registry and the ledger know of `name`.

    Args:
        recipe: See `tasks.tags.recipe`.
        data: The digest of the data.

    Raises:
        ServiceError: MLflow or the store does not answer or refuses.
    """
    with mlflow_client() as client:
        judged = [found for found in every(client, name) if VERDICT in found.tags]
        reigns_since = since(client, name)
    made = [found for found in judged if found.tags.get(RECIPE) == recipe]
    return Attempts(
        made=len(made),
        last=max((max(v.created, float(v.tags.get(MADE_AGAIN, "0"))) for v in made), default=None),
        data_known=any(v.tags.get("temper.data") == data for v in judged),
        champion_since=reigns_since,
    )
