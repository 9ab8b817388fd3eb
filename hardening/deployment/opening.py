"""What a file of unknown origin must stand before it is used: all that will be done to it later.

Shapes: B images, C channels, H x W pixels.
"""

import re
from collections.abc import Iterator

import torch

from hardening.deployment.contract import Contract, with_contract
from hardening.deployment.ends import forms
from hardening.deployment.float_form import float_form
from hardening.deployment.session import CHUNK, Session
from hardening.deployment.signature import name_of
from hardening.deployment.twin import Twin, explained
from hardening.errors import ModelError, NoFloatForm, NoTwin
from hardening.spec import Record

NO_MEMORY = re.compile(
    r"bad_alloc|not enough memory|(failed|unable) to allocate|(cannot|can't) allocate", re.I
)
"""How libraries say so."""

BATCHES = (1, CHUNK)
"""Images at a time, as an evaluation runs them."""

DIFFERENTIATED = 8
"""Images whose gradients are taken at a time. An evaluation takes those of `CHUNK`, for which large
honest networks want more memory than a file may take here: about 8 times as much as these, for what
grows faster than the batch does so in the forward passes, too."""

SIDES = (32, 224)
"""Pixels along a side that a file leaves open, where no dataset says it: the first it takes."""

SIDES_OF_GREY = (28, 224)
"""The same for one channel."""


class Opening(Record):
    """How to open a file: as a user's `contract` says, on the images (C, H, W) of a dataset.

    Without a contract the file is opened as it says itself, and if it has several outputs and does
    not say which one answers, with each that may; without a shape on images of likely sizes.
    """

    contract: Contract | None = None
    shape: tuple[int, int, int] | None = None


ANY = Opening()
"""Nothing is known of the file."""


class Tried(Record):
    """The `shape` (C, H, W) of the images that a file ran.

    It is empty if the file leaves sizes open and takes none of those that are likely; `refusal` is
    why it did not take the last of these.
    """

    shape: tuple[int, ...]
    refusal: str = ""


def try_out(data: bytes, what: Opening) -> Tried:
    """Run a session and a twin of the file as an evaluation would.

    Those of its float form, too, if it is an int8 file that has one.

    A file without a twin may pass: it can be attacked as a black box. So may one that leaves sizes
    open and takes none of those that are likely.

    Raises:
        ModelError: The gate or ONNX Runtime refuses it, or does not run the images that it or
            the dataset asks for.
        MemoryError: It wants more than there is; a `ModelError` may say so, too, see `NO_MEMORY`.
    """
    name, contract = name_of(data), what.contract
    for form in forms(data, name) if contract is None else [with_contract(data, contract, name)]:
        session = Session(form, threads=1)
        tried = Tried(shape=what.shape or session.image_shape)
        if all(tried.shape):
            _run(session, tried.shape)
        else:
            tried = _accepted(session)
        if tried.shape:
            _try_twin(form, tried.shape)
            _try_float_form(session, tried.shape)
    return tried


def _accepted(session: Session) -> Tried:
    """The first likely shape of images that the file runs."""
    refusal = ""
    for shape in likely(session.image_shape):
        try:
            _run(session, shape)
        except ModelError as error:
            # The shape is a guess of ours: a file need not take it.
            if NO_MEMORY.search(str(error)):
                raise
            refusal = str(error).removeprefix(f"{session.name}: ")
        else:
            return Tried(shape=shape)
    return Tried(shape=(), refusal=refusal)


def likely(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Shapes (C, H, W) that images may have where 0 stands for a size that a file leaves open."""
    if not shape[0] and shape[2] in {1, 3}:
        # Of a file in NHWC that says nothing of it, the last size is the channels.
        for side in SIDES:
            yield tuple(size or side for size in shape)
        return
    for channels in (shape[0],) if shape[0] else (3, 1):
        for side in SIDES_OF_GREY if channels == 1 else SIDES:
            yield channels, shape[1] or side, shape[2] or side


def _run(session: Session, shape: tuple[int, ...]) -> None:
    for batch in BATCHES:
        session(torch.zeros(batch, *shape))


def _try_twin(data: bytes, shape: tuple[int, ...]) -> None:
    try:
        twin = Twin(data)
        with explained(twin.name):
            with torch.no_grad():
                twin(torch.zeros(CHUNK, *shape))
            x = torch.zeros(DIFFERENTIATED, *shape, requires_grad=True)
            torch.autograd.grad(twin(x).sum(), x, allow_unused=True)
    except NoTwin as error:
        if NO_MEMORY.search(str(error)):
            raise


def _try_float_form(session: Session, shape: tuple[int, ...]) -> None:
    if session.facts().precision != "int8":
        return
    try:
        form = float_form(session.data)
    except NoFloatForm as error:
        if NO_MEMORY.search(str(error)):
            raise
    else:
        _run(Session(form, threads=1), shape)
        _try_twin(form, shape)
