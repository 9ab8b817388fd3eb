"""What a run reads from outside, fetched and digested before anything starts."""

import hashlib
from pathlib import Path
from uuid import uuid4

from flows.config import Config
from flows.subjects import Role, Sources
from hardening.deployment.contract import Contract
from hardening.deployment.lineage import owed
from hardening.deployment.opening import Opening
from hardening.deployment.storage import precision
from hardening.deployment.unstamped import unstamp
from hardening.deployment.untrusted import parse
from hardening.errors import DigestError
from hardening.log import Log
from tasks import registry
from tasks.digest import content_sha256
from tasks.fetch import fetch_file
from tasks.foreign import check_foreign
from tasks.settings import home
from tasks.step import Located
from tasks.store import Store

REGISTRY_SCHEME = "models:/"


def find_sources(config: Config, store: Store, log: Log) -> Sources:
    """Find dataset, model and reigning champion.

    Raises:
        InputError: One of them cannot be had, or is not what its digest promises.
    """
    data, model, reigning = find_data(config, log), find_model(config, log), _champion(config)
    champion = None if reigning is None else store.put(unstamp(reigning))
    files: dict[Role, bytes] = {}
    if model is not None and config.model.onnx is not None:
        files["control"] = Path(model.path).read_bytes()
    if reigning is not None:
        files["champion"] = reigning
    int8 = (role for role, file in files.items() if precision(parse(file, role)) == "int8")
    due = {role: owed(file, role) for role, file in files.items()}
    return Sources(data, model, champion, frozenset(int8), due)


def find_data(config: Config, log: Log) -> Located:
    """Where the dataset lies on this disk, fetched if need be."""
    if config.data.path is None:
        # The dataset comes with a library, or is downloaded into this folder by one.
        return Located(path=str(home() / "datasets"), sha256="")
    return _located(config.data.path, config.data.sha256, log)


def find_model(config: Config, log: Log) -> Located | None:
    """The given weights or file, fetched and, if it is a file, opened; None for a model to train.

    Raises:
        ModelError: The file is refused.
        DigestError: It is not the promised one.
    """
    uri = config.model.weights or config.model.onnx
    if uri is None:
        return None
    found = _weights_at(uri, config.model.sha256, log)
    if config.model.onnx is not None:
        # A copy of a registered file lies where nobody else would find it.
        name = uri if uri.startswith(REGISTRY_SCHEME) else found.path
        _check_file(found, name, config.model.contract)
    return found


def _weights_at(uri: str, sha256: str, log: Log) -> Located:
    if not uri.startswith(REGISTRY_SCHEME):
        return _located(uri, sha256, log)
    data = registry.download(uri)
    folder = home() / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    # Named by content: an alias that moves meanwhile is another file.
    file = folder / f"{hashlib.sha256(data).hexdigest()}.model"
    # Replaced and never rewritten: another run may be reading it.
    temporary = folder / f"tmp-{uuid4().hex}"
    try:
        temporary.write_bytes(data)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return _located(str(file), sha256, log)


def _located(uri: str, sha256: str, log: Log) -> Located:
    path = fetch_file(uri, sha256, home() / "downloads", log)
    return Located(path=str(path), sha256=content_sha256(path))


def _champion(config: Config) -> bytes | None:
    if config.registry is None:
        return None
    reigning = registry.champion(config.registry.name)
    if reigning is None:
        return None
    # By its version: the alias may move meanwhile, or lag behind the ledger.
    data = registry.download(reigning.uri)
    check_foreign(data, reigning.uri, Opening(contract=Contract()))
    return data


def _check_file(file: Located, name: str, contract: Contract) -> None:
    """Open the very bytes that have the digest, as the contract says that they are to be read.

    The steps that read the file later check its digest again.
    """
    data = Path(file.path).read_bytes()
    if (now := hashlib.sha256(data).hexdigest()) != file.sha256:
        raise DigestError(f"{file.path}: got sha256 {now} now, expected {file.sha256} as before")
    check_foreign(data, name, Opening(contract=contract))
    owed(data, name)
