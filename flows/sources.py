"""What a run reads from outside, fetched and digested before anything starts."""

import hashlib

from flows.config import Config
from flows.subjects import Sources
from hardening.log import Log
from tasks import registry
from tasks.digest import content_sha256
from tasks.fetch import fetch_file
from tasks.settings import home
from tasks.step import Located
from tasks.store import Artifact, Store

REGISTRY_SCHEME = "models:/"

ONNX_START = b"\x08"
"""First byte of an ONNX file: its first field, the version; no archive of weights starts so."""


def find_sources(config: Config, store: Store, log: Log) -> Sources:
    """Find dataset, weights and reigning champion.

    Raises:
        InputError: One of them cannot be had, or is not what its digest promises.
    """
    return Sources(
        data=_data(config, log),
        weights=_weights(config, log),
        champion=_champion(config, store),
    )


def _data(config: Config, log: Log) -> Located:
    if config.data.path is None:
        # The dataset comes with a library, or is downloaded into this folder by one.
        return Located(path=str(home() / "datasets"), sha256="")
    return _located(config.data.path, config.data.sha256, log)


def _weights(config: Config, log: Log) -> Located | None:
    uri = config.model.weights
    if uri is None:
        return None
    if not uri.startswith(REGISTRY_SCHEME):
        return _located(uri, config.model.sha256, log)
    data = registry.download(uri)
    folder = home() / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    # Named by content: an alias that moves meanwhile is another file.
    suffix = ".onnx" if data.startswith(ONNX_START) else ".weights"
    file = folder / (hashlib.sha256(data).hexdigest() + suffix)
    file.write_bytes(data)
    return _located(str(file), config.model.sha256, log)


def _located(uri: str, sha256: str, log: Log) -> Located:
    path = fetch_file(uri, sha256, home() / "downloads", log)
    return Located(path=str(path), sha256=content_sha256(path))


def _champion(config: Config, store: Store) -> Artifact | None:
    if config.registry is None:
        return None
    reigning = registry.champion(config.registry.name)
    if reigning is None:
        return None
    return store.put(registry.download(f"models:/{config.registry.name}@champion"))
