"""What a run reads from outside is whole, whoever else fetches it at the same time."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from flows import sources
from hardening.deployment.contract import Contract
from hardening.errors import DigestError
from hardening.log import Silent


@pytest.fixture
def registered(monkeypatch, tmp_path):
    """A registered file of some size; nobody opens it."""
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path))
    data = os.urandom(8 << 20)
    monkeypatch.setattr(sources.registry, "download", lambda _uri: data)
    for name in ("check_foreign", "owed"):
        monkeypatch.setattr(sources, name, lambda *_: None)
    return data


def test_users_of_one_version_do_not_see_each_others_download_half_written(registered, tmp_path):
    def fetch(_):
        found = sources._weights_at("models:/m/1", "", Silent())
        sources._check_file(found, "models:/m/1", Contract())
        return found.sha256

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(fetch, range(24)))) == 1
    [file] = (tmp_path / "downloads").iterdir()  # and nothing temporary stays
    assert file.read_bytes() == registered


def test_a_registered_file_that_is_not_the_promised_one_is_named(registered):
    with pytest.raises(DigestError, match=r"\.model: got sha256"):
        sources._weights_at("models:/m/1", "0" * 64, Silent())
