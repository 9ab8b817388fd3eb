"""Opens exported files for an attack: the one that is judged, and those whose gradients lead."""

from torch import Tensor

from attacks.adaptive import WRAPPERS
from defenses import FORMS
from hardening.attack import Access, Attack
from hardening.carried import Beside, Carried, Ensemble
from hardening.data import Labelled
from hardening.deployed import Deployed, bfloat16_is_faster
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.inside import Inside
from hardening.models import files
from hardening.models.form import Form
from hardening.spec import Spec, bind
from hardening.threat import Model
from tasks.data import device
from tasks.step import Run
from tasks.store import Artifact

Opened = tuple[Session | Inside, Deployed]
"""What answers and judges, and what an attack sees of it."""


def open_target(run: Run, onnx: Artifact, no_twin: Artifact | None, access: Access) -> Opened:
    """The running file, and what an attack sees of it; its twin as fast as it can be.

    A fast twin leads a search by scores, too: the session takes twice as long for an answer.

    Args:
        no_twin: Why no gradients of the file are to be had, if that was found; see `inspect_file`.
    """
    session, target = open_exact(run, onnx, no_twin)
    if isinstance(session, Inside):
        return session, target
    fast = target.differentiable and _fast(session)
    return session, Deployed(session, target.twin, fast=fast, scores=fast and access == "scores")


def open_exact(run: Run, onnx: Artifact, no_twin: Artifact | None) -> Opened:
    """The running file, and what an attack sees of it; its twin computes what the file computes.

    Whether it has one is not asked again here: a twin that is not the file's would be believed. A
    model that does not ship is no file: it answers for itself, and is attacked as it says.
    """
    data = run.read(onnx)
    session = open_session(data)
    if isinstance(session, Inside):
        return session, Deployed(session, session.informed, scores=True)
    return session, Deployed(session, session if no_twin else Twin(data).to(device()))


def open_session(data: bytes) -> Session | Inside:
    """What answers and judges: an ONNX file as it runs, or a form in this process."""
    if not files.is_saved(data):
        return Session(data)
    model = files.load(data, forms=FORMS).to(device())
    assert isinstance(model, Form), "all other models are exported"
    return Inside(data, model)


def adapted(session: Session | Inside, attack: Attack) -> Attack:
    """`attack` as an adversary runs it who knows what is attacked."""
    return session.adapted(attack) if isinstance(session, Inside) else attack


def led_by(
    run: Run, target: Deployed, sources: tuple[Artifact, ...], *, differential: bool = False
) -> Model:
    """`target` with the gradients of other files; of several, of their mean log-probability.

    Args:
        differential: Keep its own gradients, and put the first file beside it.
    """
    if not sources:
        return target
    twins: list[Model] = [Twin(run.read(source)).to(device()) for source in sources]
    if isinstance(target.session, Inside):
        alike = [target.session.alike(twin) for twin in twins]
        return Carried(_InFull(target), alike[0] if len(alike) == 1 else Ensemble(alike))
    if differential:
        return Beside(target, twins[0])
    return Carried(target, twins[0] if len(twins) == 1 else Ensemble(twins))


def wrapped(model: Model, through: list[Spec], where: str) -> Model:
    """`model` seen through adaptive wrappers, the first one innermost."""
    for wrapper in through:
        model = bind(WRAPPERS, wrapper, where)(model)
    return model


def placed(images: Labelled) -> Labelled:
    """The images where models compute."""
    place = device()
    return Labelled(images.images.to(place), images.labels.to(place))


class _InFull:
    """A model that does not ship, led by others: the mean over its draws is of no use to these.

    It answers each pass in full, but a search ends only where its informed self agrees: the bare
    majority, asked at every step, is sometimes luck.
    """

    def __init__(self, target: Deployed) -> None:
        self.target = target

    def __call__(self, x: Tensor) -> Tensor:
        return self.target.session(x)

    def stands(self, points: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        return self.target.stands(points, logits, y)


def _fast(session: Session) -> bool:
    """A twin rounds as the file does: bfloat16 would change every rounding."""
    cpu = device().type == "cpu"
    return cpu and not session.facts().rounds and bfloat16_is_faster()
