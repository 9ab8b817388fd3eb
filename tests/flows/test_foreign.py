"""A foreign ONNX file is opened in a process of its own, once, before anything else."""

from types import SimpleNamespace

import onnx
import pytest
import yaml

from flows import sources
from flows.__main__ import main
from hardening.deployment import sandbox
from hardening.deployment.contract import Contract
from hardening.deployment.opening import Opening, Tried
from hardening.deployment.session import Session
from hardening.errors import ConfigError, ModelError
from tasks import foreign
from tasks.foreign import check_foreign, check_sizes

GOOD = """<ir_version: 10, opset_import: ["" : 20]>
g (float[batch,1,8,8] x) => (float[batch,10] y) {
    f = Flatten(x) y = Slice(f, starts, ends, axes) }"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TEMPER_STORE", (tmp_path / "store").as_uri())
    model = onnx.parser.parse_model(GOOD)
    for name, value in (("starts", 0), ("ends", 10), ("axes", 1)):
        model.graph.initializer.append(onnx.helper.make_tensor(name, 7, [1], [value]))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def opened(monkeypatch):
    """Names of what was opened, in a child that says yes at once."""
    names = []

    def open_once(_data, name, what, limits):
        names.append((name, limits))
        return Tried(shape=what.shape or (1, 8, 8))

    monkeypatch.setattr(foreign, "open_once", open_once)
    return names


def test_a_file_is_opened_once_and_again_when_its_bytes_changed(file, opened):
    data = file.read_bytes()
    for content in (data, data, data + b"\x00", data):
        check_foreign(content, "file.onnx")

    assert len(opened) == 2


def test_a_refused_file_is_not_remembered(file, monkeypatch):
    monkeypatch.setattr(sandbox, "CHILD", "import os; os.kill(os.getpid(), 11)")
    for _ in range(2):
        with pytest.raises(ModelError, match=r"^file\.onnx: opening it crashed \(signal 11\)"):
            check_foreign(file.read_bytes(), "file.onnx")


def test_the_limits_come_from_the_environment(file, opened, monkeypatch):
    monkeypatch.setenv("TEMPER_OPEN_SECONDS", "7")
    monkeypatch.setenv("TEMPER_OPEN_MEMORY", "1000000")
    check_foreign(file.read_bytes(), "file.onnx")
    assert opened == [("file.onnx", (7, 1_000_000))]

    monkeypatch.setenv("TEMPER_OPEN_SECONDS", "soon")
    with pytest.raises(ConfigError, match="TEMPER_OPEN_SECONDS: got 'soon'"):
        check_foreign(file.read_bytes(), "file.onnx")


def test_a_plan_refuses_a_hostile_file_in_one_line(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sandbox, "CHILD", "import os; os.kill(os.getpid(), 11)")
    config = {
        "name": "tiny",
        "data": {"name": "digits"},
        "model": {"onnx": str(file)},
        "threat": {"norm": "linf", "eps": 0.1},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))

    assert main(["check", str(tmp_path / "run.yaml")]) == 2
    err = capsys.readouterr().err
    assert err == f"temper: {file}: opening it crashed (signal 11)\n"


def test_a_champion_is_a_foreign_file_too(file, opened, monkeypatch):
    class Settings:
        class registry:  # noqa: N801  as the configuration calls it
            name = "tiny"

    monkeypatch.setattr(
        sources.registry, "champion", lambda _: SimpleNamespace(uri="models:/tiny/3")
    )
    monkeypatch.setattr(sources.registry, "download", lambda _: file.read_bytes())

    assert sources._champion(Settings) == file.read_bytes()
    assert [name for name, _ in opened] == ["models:/tiny/3"]


def test_a_file_is_opened_anew_when_its_contract_changes(file, opened):
    for contract in (Contract(), Contract(range="0..255"), Contract(range="0..255")):
        check_foreign(file.read_bytes(), "file.onnx", Opening(contract=contract))

    assert len(opened) == 2


def test_open_sizes_are_opened_on_the_dataset_s_and_fixed_ones_are_not(file, opened, monkeypatch):
    whats, eight = [], Tried(shape=(1, 8, 8))
    monkeypatch.setattr(foreign, "open_once", lambda *told: whats.append(told[2]) or eight)
    session = Session(file.read_bytes())
    check_sizes(session, "file.onnx", (1, 8, 8))
    assert whats == []

    model = onnx.load(file)
    for size in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        size.dim_param = "side"
    session = Session(model.SerializeToString())
    for _ in range(2):
        check_sizes(session, "file.onnx", (1, 9, 9))
    assert [what.shape for what in whats] == [(1, 9, 9)]
    assert check_foreign(session.data, "file.onnx", whats[0]) == eight
