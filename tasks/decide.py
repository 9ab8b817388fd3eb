"""The step that asks whether enough images were attacked to know how a gate's check will end."""

import json

from hardening.evidence import Decision
from hardening.sequential import decide
from tasks.step import Run, step
from tasks.store import Artifact


@step
def decide_early(
    run: Run,
    seen: tuple[Artifact, ...],
    standing: tuple[tuple[Artifact, ...], ...],
    /,
    *,
    names: list[str],
    images: int,
    limit: float,
    error: float,
) -> dict[str, bytes]:
    """Judge every model's robust accuracy from the first `images` of all images.

    The output `decided` is there only when all models are; the error level is shared among them.

    Args:
        seen: Per model, what its file says of all the clean images.
        standing: Per model and shard, the places that stand after the last attack.
    """
    said = {}
    total = len(json.loads(run.read(seen[0]))["correct"])
    if total <= images:
        return {"open": b"{}"}  # all images were attacked: nothing is left to decide early
    for name, shards in zip(names, standing, strict=True):
        stands = {place for shard in shards for place in json.loads(run.read(shard))}
        outcomes = [place in stands for place in range(images)]
        said[name] = decide(outcomes, total, limit, error / len(names))
    text = {name: decision.text for name, decision in said.items()}
    if any(decision.decided is None for decision in said.values()):
        return {"open": json.dumps(text).encode()}
    run.line(f"robust accuracy against {limit:g} is decided after {images} of {total} images")
    decision = Decision(limit=limit, error=error, images=images, of=total, models=text)
    return {"decided": decision.model_dump_json().encode()}
