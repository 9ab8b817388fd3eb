import threading

import pytest

from hardening.errors import BrokenPromise, DataError, DigestError, ModelError
from tasks.attempts import attempts
from tasks.mlflow_model import fetch
from tasks.promotion import promote, roll_back
from tasks.registry import champion, download, judge_version, made_again, register, settle
from tasks.tags import RECIPE, recipe
from tasks.tracking import log_run
from tasks.versions import CHAMPION, VERDICT, every, under_alias

on_both = pytest.mark.parametrize("store", ["embedded", "server"], indirect=True)


def anybody(found):
    return True


@pytest.fixture
def registered(client, name):
    """Logs and registers the candidate of a case."""

    def build(case):
        case.models.pop("control", None)
        logged = log_run(*case.arguments)
        evidence = case.run.models["tuned"]
        uri = logged.model_uris["tuned"]
        return register(uri, name, evidence, case.run, case.verdict, case.digest)

    return build


@on_both
def test_the_first_that_passes_becomes_challenger_and_champion(name, make_case, registered):
    assert champion(name) is None
    case = make_case()
    found = registered(case)

    assert found.version == 1
    assert type(found.version) is int
    assert found.aliases == ["challenger", "champion"]
    assert champion(name) == found
    assert found.sha256 == case.run.models["tuned"].file.sha256
    assert found.evidence == case.digest
    assert found.tags["temper.threat"] == "linf eps 0.1"
    assert found.tags["temper.verdict"] == "passed"
    assert found.tags["temper.data"] == "d" * 64
    assert found.tags["temper.robust_accuracy"].startswith("0.7500 [0.")
    assert found.tags["temper.replaces"] == "none"


def test_the_champion_downloads_as_the_file_byte_for_byte(name, make_case, registered):
    case = make_case()
    registered(case)
    assert download(f"models:/{name}@champion") == case.models["tuned"]
    assert download(f"models:/{name}/1") == case.models["tuned"]


def test_registering_again_makes_no_second_version(client, name, make_case, registered):
    case = make_case()
    assert registered(case) == registered(case)
    assert len(client.search_model_versions(f"name = '{name}'")) == 1


def test_a_looser_gate_promotes_the_version_that_is_there(client, name, make_case, registered):
    assert registered(make_case(least=0.9)).aliases == ["challenger"]
    found = registered(make_case(least=0.5))
    assert (found.version, found.aliases) == (1, ["challenger", "champion"])
    assert found.tags["temper.verdict"] == "passed"


def test_a_failing_verdict_leaves_the_champion_alone(name, make_case, registered):
    first = registered(make_case(robust=20, scale=2.0))
    failing = make_case(robust=10, scale=3.0, champion=(2.0, 20))
    assert not failing.verdict.passed
    second = registered(failing)
    assert (second.version, second.aliases) == (2, ["challenger"])
    assert second.tags["temper.verdict"] == "failed"
    assert champion(name).version == first.version


def test_one_that_passes_but_does_not_beat_the_champion_is_only_the_challenger(
    name, make_case, registered
):
    registered(make_case(robust=30, scale=2.0))
    assert registered(make_case(robust=31, scale=3.0, champion=(2.0, 30))).aliases == ["challenger"]
    assert champion(name).version == 1


@on_both
def test_one_that_beats_the_measured_champion_takes_its_place(name, make_case, registered):
    registered(make_case(robust=20, scale=2.0))
    found = registered(make_case(robust=35, scale=3.0, champion=(2.0, 20)))
    assert found.aliases == ["challenger", "champion"]
    assert found.tags["temper.replaces"] == "version 1"
    assert champion(name).version == 2


@pytest.mark.parametrize("measured", [None, (9.0, 20)], ids=["no champion", "another champion"])
def test_a_champion_that_changed_since_the_comparison_stays(name, make_case, registered, measured):
    registered(make_case(robust=20, scale=2.0))
    with pytest.raises(BrokenPromise, match="champion changed since the comparison"):
        registered(make_case(robust=35, scale=3.0, champion=measured))
    assert champion(name).version == 1


def test_a_champion_that_vanished_since_the_comparison_is_not_replaced(name, make_case, registered):
    with pytest.raises(BrokenPromise, match="got none"):
        registered(make_case(robust=35, scale=3.0, champion=(2.0, 20)))
    assert champion(name) is None


def test_of_two_promoters_at_once_one_wins_and_one_is_told(name, make_case, registered):
    cases = [make_case(scale=2.0), make_case(scale=3.0)]
    errors: list[BaseException] = []

    def promote(case):
        try:
            registered(case)
        except BrokenPromise as error:
            errors.append(error)

    threads = [threading.Thread(target=promote, args=[case]) for case in cases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 1
    assert champion(name).aliases[-1] == "champion"


def test_a_champion_without_our_tags_is_compared_by_its_bytes(client, name, make_case, registered):
    case = make_case(robust=20, scale=2.0)
    uri = log_run(*case.arguments).model_uris["tuned"]
    client.create_registered_model(name)
    client.create_model_version(name, uri, model_id=uri.removeprefix("models:/"))
    client.set_registered_model_alias(name, "champion", "1")
    assert champion(name).sha256 is None
    registered(make_case(robust=35, scale=3.0, champion=(2.0, 20)))
    assert champion(name).version == 2


def test_a_file_that_was_not_measured_is_not_registered(client, name, make_case):
    case = make_case()
    logged = log_run(*case.arguments)
    with pytest.raises(DigestError, match="as measured"):
        register(
            logged.model_uris["control"],
            name,
            case.run.models["tuned"],
            case.run,
            case.verdict,
            case.digest,
        )
    assert champion(name) is None


@on_both
def test_bytes_that_changed_in_the_store_are_refused(client, name, make_case, registered, tmp_path):
    case = make_case()
    registered(case)
    assert download(f"models:/{name}@champion") == case.models["tuned"]
    model_id = log_run(*case.arguments).model_uris["tuned"].removeprefix("models:/")
    (tmp_path / "model.onnx").write_bytes(b"something else")
    client.log_model_artifact(model_id, str(tmp_path / "model.onnx"))
    with pytest.raises(DigestError, match=f"models:/{name}@champion: got 14 B"):
        download(f"models:/{name}@champion")


@pytest.fixture
def brought(client, name, tmp_path):
    """Registers a folder of files as somebody else does; the address of the version."""

    def brought(**files):
        experiment = client.create_experiment(
            name, artifact_location=None if "http" in client.tracking_uri else tmp_path.as_uri()
        )
        model = client.create_logged_model(experiment, name="weights")
        for file, content in files.items():
            path = tmp_path / "given" / file.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        client.log_model_artifacts(model.model_id, str(tmp_path / "given"))
        client.finalize_logged_model(model.model_id, "READY")
        client.create_registered_model(name)
        client.create_model_version(name, f"models:/{model.model_id}", model_id=model.model_id)
        return f"models:/{name}/1"

    return brought


@on_both
@pytest.mark.usefixtures("store")
def test_the_model_file_of_somebody_else_is_fetched(brought):
    files = {"deep__net_safetensors": b"weights", "notes_txt": b"trained on a Tuesday"}
    assert download(brought(**files)) == b"weights"


@on_both
@pytest.mark.usefixtures("store")
def test_a_version_that_is_too_large_is_refused_before_anything_is_downloaded(brought, monkeypatch):
    uri = brought(model_onnx=b"01234", deep__er__notes_txt=b"56789")
    monkeypatch.setenv("TEMPER_MAX_DOWNLOAD", "10")
    assert download(uri) == b"01234"
    monkeypatch.setenv("TEMPER_MAX_DOWNLOAD", "9")
    monkeypatch.setattr("tasks.registry.fetch", None)
    with pytest.raises(DataError, match=f"{uri}: got 10 B or more, expected at most 9 B"):
        download(uri)


def test_a_version_of_thousands_of_files_is_refused(client, name, tmp_path):
    for place in range(1001):
        (tmp_path / f"{place}").touch()
    client.create_registered_model(name)
    client.create_model_version(name, tmp_path.as_uri())
    with pytest.raises(ModelError, match="got more than 1000 files and folders, expected a model"):
        download(f"models:/{name}/1")


@on_both
@pytest.mark.usefixtures("store")
def test_the_model_of_a_run_is_fetched_by_the_name_it_has_there(client, name, make_case):
    logged = log_run(*make_case().arguments)
    model = client.get_logged_model(logged.model_uris["tuned"].removeprefix("models:/"))
    source = f"runs:/{model.source_run_id}/{model.name}"
    client.create_registered_model(name)
    client.create_model_version(name, source, run_id=model.source_run_id)
    assert download(f"models:/{name}/1") == fetch(f"models:/{model.model_id}")


@on_both
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a_onnx": b"a", "b_onnx": b"b"}, r"got a.onnx, b.onnx, expected one file that ends in"),
        ({"notes_txt": b"n"}, r"got notes.txt, expected one file that ends in .onnx or"),
    ],
    ids=["two", "none"],
)
def test_a_version_without_one_model_file_is_refused_with_what_it_has(brought, files, says):
    with pytest.raises(ModelError, match=says):
        download(brought(**files))


@on_both
def test_what_the_registry_does_not_have_is_named(name, make_case, registered):
    with pytest.raises(ModelError, match=f"has no registered model '{name}'"):
        download(f"models:/{name}@champion")
    registered(make_case(least=0.9))
    with pytest.raises(ModelError, match=r"has no alias 'champion' .*; aliases: challenger"):
        download(f"models:/{name}@champion")
    with pytest.raises(ModelError, match="has no version 7"):
        download(f"models:/{name}/7")


@pytest.mark.parametrize("uri", ["models:/x", "models:/x/latest", "runs:/x/y", "models:/a'b/1"])
@pytest.mark.usefixtures("store")
def test_an_address_that_is_no_version_is_refused(uri):
    with pytest.raises(ModelError, match="expected models:/NAME@ALIAS or models:/NAME/VERSION"):
        download(uri)


def test_a_run_that_is_killed_before_it_promoted_leaves_no_verdict(
    client, name, make_case, registered, monkeypatch
):
    case = make_case()
    with monkeypatch.context() as patch:
        patch.setattr("tasks.registry.promote", _killed)
        with pytest.raises(KeyboardInterrupt):
            registered(case)
    (begun,) = every(client, name)
    assert begun.tags[RECIPE] == recipe(case.run.config, case.run.data.sha256)
    assert VERDICT not in begun.tags

    assert registered(case).version == 1
    assert champion(name).tags[VERDICT] == "passed"


@pytest.mark.parametrize("place", ["tasks.champion._write", "tasks.registry._tag"])
def test_what_a_run_that_was_killed_left_undone_is_done_by_the_next(
    client, name, make_case, registered, monkeypatch, place
):
    registered(make_case(robust=10, scale=2.0, least=0.1))
    better = make_case(robust=30, scale=3.0, champion=(2.0, 10))
    with monkeypatch.context() as patch:
        patch.setattr(place, _killed)
        with pytest.raises(KeyboardInterrupt):
            registered(better)
    assert VERDICT not in every(client, name)[1].tags

    # The ledger has it: so it is now measured beside itself, and not promoted.
    again = make_case(robust=30, scale=3.0, champion=(3.0, 30))
    assert not again.verdict.promote
    found = judge_version(
        name, 2, again.run.models["tuned"], again.run, again.verdict, again.digest
    )

    assert found.aliases == ["challenger", "champion"]
    assert found.tags[VERDICT] == "passed"


def test_what_a_promoter_that_was_killed_left_undone_is_done_by_a_sweep(
    client, name, make_case, registered, monkeypatch
):
    settle(name)  # nothing is there yet
    with monkeypatch.context() as patch:
        patch.setattr("tasks.champion._write", _killed)
        with pytest.raises(KeyboardInterrupt):
            registered(make_case())
    assert under_alias(client, name, CHAMPION) is None

    settle(name)

    assert under_alias(client, name, CHAMPION).version == 1


def test_a_champion_without_a_verdict_has_one_when_it_was_made_again(
    client, name, make_case, registered, monkeypatch
):
    case = make_case()
    with monkeypatch.context() as patch:
        patch.setattr("tasks.registry._tag", _killed)
        with pytest.raises(KeyboardInterrupt):
            registered(case)
    again = make_case(champion=(2.0, 30))
    wanted = recipe(again.run.config, again.run.data.sha256)
    assert attempts(name, wanted, again.run.data.sha256).made == 0

    found = made_again(name, again.run.models["tuned"], again.run, again.verdict)

    assert found.tags[VERDICT] == "passed"
    tried = attempts(name, wanted, again.run.data.sha256)
    assert (tried.made, tried.data_known) == (1, True)
    assert tried.champion_since == pytest.approx(tried.last, abs=60)


def test_a_file_that_was_rolled_back_does_not_return_under_another_number(
    name, client, make_case, registered
):
    registered(make_case(robust=10, scale=2.0, least=0.1))
    registered(make_case(robust=30, scale=3.0, champion=(2.0, 10)))
    roll_back(client, name, "broke production")

    found = registered(make_case(robust=31, scale=3.0, champion=(2.0, 10)))

    assert (found.version, found.aliases) == (3, ["challenger"])
    says = "refused: has the graph of version 2, which was rolled back"
    assert found.tags[VERDICT].startswith(says)
    assert champion(name).version == 1
    with pytest.raises(ModelError, match="version 3 has the graph of version 2"):
        promote(client, name, 3, anybody, "better")

    # Another file is free to be promoted.
    found = registered(make_case(robust=32, scale=4.0, champion=(2.0, 10)))
    assert found.aliases == ["challenger", "champion"]


def _killed(*arguments):
    raise KeyboardInterrupt


@on_both
def test_all_pages_of_versions_are_read(client, name, tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.versions.PAGE", 2)
    client.create_registered_model(name)
    assert every(client, name) == []
    for _ in range(5):
        client.create_model_version(name, f"s3://bucket/{name}", tags={"a": "b"})
    assert [found.version for found in every(client, name)] == [1, 2, 3, 4, 5]
    assert every(client, name)[4].tags == {"a": "b"}


def test_a_recipe_is_the_configuration_but_its_seed_and_the_data():
    config = {"data": {"name": "n"}, "seed": 0, "threat": {"eps": 0.1}}
    same = recipe({"threat": {"eps": 0.1}, "seed": 7, "data": {"name": "n"}}, "d")
    assert recipe(config, "d") == same
    assert recipe(config, "e") != same
    assert recipe({**config, "threat": {"eps": 0.2}}, "d") != same
