"""Opens exported files for an attack: the one that is judged, and those whose gradients lead."""

from attacks.adaptive import WRAPPERS
from hardening.attack import Access
from hardening.carried import Beside, Carried, Ensemble
from hardening.data import Labelled
from hardening.deployed import Deployed, bfloat16_is_faster
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.errors import NoTwin
from hardening.spec import Spec, bind
from hardening.threat import Model
from tasks.data import device
from tasks.step import Run
from tasks.store import Artifact


def open_target(run: Run, onnx: Artifact, access: Access) -> tuple[Session, Deployed]:
    """The running file, and what an attack sees of it; its twin as fast as it can be.

    A fast twin leads a search by scores, too: the session takes twice as long for an answer.
    """
    session, target = open_exact(run, onnx)
    fast = target.differentiable and _fast(session)
    return session, Deployed(session, target.twin, fast=fast, scores=fast and access == "scores")


def open_exact(run: Run, onnx: Artifact) -> tuple[Session, Deployed]:
    """The running file, and what an attack sees of it; its twin computes what the file computes."""
    data = run.read(onnx)
    session, twin = Session(data), find_twin(data)
    return session, Deployed(session, session if isinstance(twin, NoTwin) else twin)


def find_twin(data: bytes) -> Twin | NoTwin:
    """The twin of a file, or why there is none: a result, for the evaluation goes on without."""
    try:
        return Twin(data).to(device())
    except NoTwin as reason:
        return reason


def led_by(
    run: Run, target: Deployed, sources: tuple[Artifact, ...], *, differential: bool = False
) -> Model:
    """`target` with the gradients of other files; of several, of their mean log-probability.

    Args:
        differential: Keep its own gradients, and put the first file beside it.
    """
    if not sources:
        return target
    twins = [Twin(run.read(source)).to(device()) for source in sources]
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


def _fast(session: Session) -> bool:
    """A twin rounds as the file does: bfloat16 would change every rounding."""
    cpu = device().type == "cpu"
    return cpu and not session.facts().rounds and bfloat16_is_faster()
