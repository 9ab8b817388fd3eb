"""What registry and ledger say of the champion: nothing of it is changed or lost unseen."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from hardening.errors import BrokenPromise
from tasks import champion
from tasks.champion import HEAD, follow, look, reigning, since
from tasks.ledger import Ledger
from tasks.promotion import promote, roll_back
from tasks.settings import store_uri
from tasks.store import open_ground
from tasks.versions import CHAMPION


def anybody(found):
    return True


@pytest.fixture
def path_of(client, name):
    """The place of an entry of the ledger in the store."""

    def find(number):
        return look(client, name).ledger._name(number)

    return find


def test_looking_changes_nothing(client, name, crowned):
    crowned(2)
    client.set_registered_model_alias(name, CHAMPION, "1")

    assert look(client, name).champion == 2
    assert look(client, name).alias == 1


def test_an_alias_that_was_moved_by_hand_stops_everybody(client, name, crowned):
    crowned(2)
    client.create_model_version(name, "file:///nowhere")
    client.set_registered_model_alias(name, CHAMPION, "3")

    says = f"version 3 was made champion by hand, .* `temper rollback {name} --reason TEXT`"
    for everybody in (reigning, follow):
        with pytest.raises(BrokenPromise, match=says):
            everybody(client, name)
    with pytest.raises(BrokenPromise, match=says):
        promote(client, name, 3, anybody, "better")
    assert look(client, name).alias == 3


@pytest.mark.parametrize("changed", [0, 2], ids=["first", "last"])
def test_an_entry_that_somebody_changed_is_noticed(client, name, crowned, path_of, changed):
    crowned(3)
    ground, place = open_ground(store_uri()), path_of(changed)
    entry = json.loads(ground.read(place)) | {"version": 1, "reason": "never happened"}
    ground.write(place, json.dumps(entry).encode())

    says = "entry 1: .* somebody changed the past" if changed == 0 else "lacks the entry"
    for everybody in (look, reigning, follow, since):
        with pytest.raises(BrokenPromise, match=says):
            everybody(client, name)


@pytest.mark.parametrize("missing", [0, 1, 2], ids=["first", "a hole", "last"])
def test_an_entry_that_is_missing_is_noticed_and_nothing_follows_it(
    client, name, crowned, path_of, missing
):
    crowned(3)
    client.create_model_version(name, "file:///nowhere")
    ground, place = open_ground(store_uri()), path_of(missing)
    ground.delete(place)

    for act in (
        lambda: look(client, name),
        lambda: promote(client, name, 4, anybody, "better"),
        lambda: roll_back(client, name, "back"),
    ):
        with pytest.raises(BrokenPromise, match=r"lacks the entry .*: restore it from a backup"):
            act()
    assert ground.read(place) is None


def test_a_promoter_in_another_store_is_refused_with_both_addresses(
    client, name, versions, tmp_path, monkeypatch
):
    versions(50, 60)
    ours, theirs = (tmp_path / "ours").as_uri(), (tmp_path / "theirs").as_uri()
    monkeypatch.setenv("TEMPER_STORE", ours)
    promote(client, name, 1, lambda found: found is None, "first")

    monkeypatch.setenv("TEMPER_STORE", theirs)
    says = f"in {theirs} lacks .*: set TEMPER_STORE to {ours}"
    for act in (
        lambda: promote(client, name, 2, lambda found: found.version == 1, "better"),
        lambda: reigning(client, name),
        lambda: look(client, name),
    ):
        with pytest.raises(BrokenPromise, match=says):
            act()

    monkeypatch.setenv("TEMPER_STORE", ours)
    assert [entry.version for entry in look(client, name).past] == [1]


def test_a_ledger_that_moved_with_its_store_goes_on(client, name, versions, tmp_path, monkeypatch):
    versions(1, 2)
    monkeypatch.setenv("TEMPER_STORE", (tmp_path / "before").as_uri())
    promote(client, name, 1, anybody, "first")
    (tmp_path / "before").rename(tmp_path / "after")
    monkeypatch.setenv("TEMPER_STORE", (tmp_path / "after").as_uri())

    promote(client, name, 2, anybody, "better")

    assert [entry.version for entry in look(client, name).past] == [1, 2]
    assert client.get_registered_model(name).tags[HEAD].endswith("/after")


def test_a_model_that_was_deleted_and_registered_again_has_no_champion(client, name, crowned):
    crowned(2)
    client.delete_registered_model(name)
    client.create_registered_model(name)
    client.create_model_version(name, "file:///nowhere")

    assert reigning(client, name) is None
    follow(client, name)
    assert look(client, name).alias is None
    promote(client, name, 1, lambda found: found is None, "first")
    assert [(e.version, e.replaces) for e in look(client, name).past] == [(1, None)]


def test_models_with_like_names_have_ledgers_of_their_own(store):
    ground = open_ground(store_uri())
    names = {Ledger(ground, name, 7)._name(0) for name in ("a b", "a_b", "a.b", "é", "è")}

    assert len(names) == 5


@pytest.fixture
def prefect(monkeypatch):
    """A Prefect API: the events that it was told, and the status with which it answers."""
    heard, statuses = [], [204]

    class Api(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if statuses[0] == 204:
                heard.extend(json.loads(body))
            self.send_response(statuses[0])
            self.end_headers()

        def do_GET(self):  # Prefect's client asks for a token, which this server does not use
            self.send_response(422)
            self.end_headers()
            self.wfile.write(b'{"detail": "CSRF protection is disabled."}')

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    with temporary_settings({PREFECT_API_URL: url}):  # it reads the environment once
        yield heard, statuses
    server.shutdown()


def versions_told(heard):
    return [event["payload"]["version"] for event in heard]


def test_prefect_hears_of_every_promotion_and_rollback_once(client, name, crowned, prefect):
    heard, _ = prefect
    crowned(2)
    roll_back(client, name, "broke production")
    follow(client, name)

    assert {event["event"] for event in heard} == {"temper.model.promoted"}
    assert versions_told(heard) == [1, 2, 1]
    assert len({event["id"] for event in heard}) == 3
    assert heard[-1]["payload"]["reason"] == "broke production"


def test_what_a_killed_promoter_did_not_tell_is_told_by_the_next(
    client, name, crowned, prefect, monkeypatch
):
    heard, _ = prefect
    crowned(1)
    client.create_model_version(name, "file:///nowhere")
    with monkeypatch.context() as patch:
        patch.setattr(champion, "_tell", _killed)
        with pytest.raises(KeyboardInterrupt):
            promote(client, name, 2, anybody, "better")
    assert versions_told(heard) == [1]

    follow(client, name)

    assert versions_told(heard) == [1, 2]


def test_a_prefect_that_is_away_stops_no_rollback_and_is_told_later(
    client, name, crowned, prefect, capsys
):
    heard, statuses = prefect
    crowned(2)
    statuses[0] = 503
    assert roll_back(client, name, "broke production").version == 1
    assert look(client, name).alias == 1
    assert "the next run will tell it" in capsys.readouterr().err

    statuses[0] = 204
    follow(client, name)
    assert versions_told(heard) == [1, 2, 1]


def _killed(client, name, reign):
    if reign.told < len(reign.past):
        raise KeyboardInterrupt
