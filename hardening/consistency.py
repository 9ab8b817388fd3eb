"""Whether what evidence sums up follows from its own per-image outcomes."""

from hardening.evidence import Accuracy, Evidence, RunEvidence


def contradiction(run: RunEvidence) -> str:
    """What in `run` does not follow from its own per-image outcomes; empty when all does.

    A verdict reads totals: totals that were edited, or cut off from their images, are no evidence.
    """
    if "control" not in run.models:
        return "models: got no control, expected the unhardened model"
    for name, model in run.models.items():
        if wrong := _contradiction(model, run.images):
            return f"models.{name}{wrong}"
    return ""


def worst_case(model: Evidence) -> list[bool]:
    """Per image: right as it is, fallen to no attack, to no probe and at no radius up to eps."""
    fallen = {image for row in model.attacks for image in row.fell} | {*model.probed}
    return [
        right and image not in fallen and (falls_at is None or falls_at > 1)
        for image, (right, falls_at) in enumerate(zip(model.correct, model.falls_at, strict=True))
    ]


def proven_and_fallen(model: Evidence) -> list[int]:
    """Images that a certificate of the file calls robust and an attack broke: one of them lies."""
    certified = [c.certified for c in model.certificates if c.subject == "file"]
    return [
        image
        for image, stands in enumerate(model.survived)
        if not stands and any(proof[image] for proof in certified)
    ]


def _contradiction(model: Evidence, images: int) -> str:
    short = any(len(proof.certified) < images for proof in model.certificates)
    if short or {len(model.correct), len(model.survived), len(model.falls_at)} != {images}:
        return f": expected {images} outcomes"
    if wrong := _impossible(model):
        return f".attacks.{wrong}"
    if model.survived != worst_case(model):
        return ".survived: is not the worst case over its attacks"
    if proven_and_fallen(model):
        return ".certificates: certify images that fell"
    for field, outcomes in (("clean", model.correct), ("robust", model.survived)):
        said: Accuracy = getattr(model, field)
        right = (said.correct, said.images) == (sum(outcomes), len(outcomes))
        if not right or said.value != said.correct / said.images:
            return f".{field}: got {said.value}, its images say otherwise"
    return ""


def _impossible(model: Evidence) -> str:
    """Which row says that an image fell twice, or fell although it was wrong as it is."""
    standing = {image for image, right in enumerate(model.correct) if right}
    for row in model.attacks:
        if not standing.issuperset(row.fell) or len({*row.fell}) != len(row.fell):
            return f"{row.name}.fell: names an image that was not standing"
        standing.difference_update(row.fell)
        if row.accuracy.correct != len(standing):
            return f"{row.name}.accuracy: got {row.accuracy.correct}, its images say otherwise"
    return ""
