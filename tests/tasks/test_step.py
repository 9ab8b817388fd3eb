"""A step's key holds everything its result depends on, and nothing else."""

import pytest

from hardening.spec import Spec
from tasks.step import Located, Plan, canonical, measured, step
from tasks.store import Artifact, open_store

ONE, TWO = (Artifact(uri=f"file:///{d}", sha256=d * 64, size=1) for d in "ab")


@step
def combine(run, first, others, /, *, factor=1.0, spec=None):
    return {"made": run.read(first)}


@measured
def time_it(run, first, /):
    return {"made": run.read(first)}


def key(*inputs, **settings):
    return combine.key(inputs, settings)


def test_the_same_arguments_give_the_same_key():
    assert key(ONE, (TWO,), factor=2.0) == key(ONE, (TWO,), factor=2.0)


@pytest.mark.parametrize(
    "other",
    [
        key(TWO, (TWO,)),
        key(ONE, (ONE,)),
        key(ONE, (TWO, TWO)),
        key(ONE, None),
        key(ONE, (TWO,), factor=2.0),
        key(ONE, (TWO,), spec=Spec(name="a")),
    ],
    ids=["input", "nested", "count", "none", "setting", "record"],
)
def test_any_other_argument_gives_another_key(other):
    assert key(ONE, (TWO,)) != other


def test_a_default_and_its_value_are_the_same():
    assert key(ONE, (TWO,)) == key(ONE, (TWO,), factor=1.0)


def test_where_something_lies_does_not_matter_only_what_it_is():
    moved = ONE.model_copy(update={"uri": "s3://elsewhere/a"})
    assert key(ONE, ()) == key(moved, ())
    assert canonical(Located(path="/a", sha256="c")) == canonical(Located(path="/b", sha256="c"))


def test_steps_with_equal_arguments_have_keys_of_their_own():
    assert time_it.key((ONE,), {}) != combine.key((ONE, None), {})


def test_what_runs_the_file_holds_for_this_processor_only(monkeypatch):
    before, plain = time_it.key((ONE,), {}), key(ONE, ())
    monkeypatch.setattr("tasks.step.processor", lambda: "another one")
    assert time_it.key((ONE,), {}) != before
    assert key(ONE, ()) == plain


def test_a_library_of_another_version_is_a_miss(monkeypatch):
    before = key(ONE, ())
    monkeypatch.setattr("tasks.step.library_versions", lambda: {"torch": "0.0.1"})
    assert key(ONE, ()) != before


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}], ids=["nan", "object", "set"])
def test_what_json_cannot_hold_is_no_key(value):
    with pytest.raises((TypeError, ValueError)):
        key(ONE, (), factor=value)


def test_a_plan_knows_what_is_cached_and_what_waits_for_something_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPER_STORE", tmp_path.as_uri())
    store = open_store(tmp_path.as_uri())
    data = store.put(b"data")
    store.record(combine.key((data, ()), {}), {"made": data}, {})
    plan = Plan()
    made = plan(combine, "known", data, ()).result()["made"]
    plan(combine, "new", made, (), factor=3.0)
    unknown = plan(combine, "new again", made, (), factor=4.0).result()["made"]
    plan(combine, "waits", unknown, ())
    assert made == data
    assert [planned.cached for planned in plan.steps] == [True, False, False, False]
