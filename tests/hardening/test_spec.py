"""A spec binds to a function or says in one line what is wrong with it."""

from functools import partial
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from hardening.errors import ConfigError
from hardening.spec import Parameter, Record, Spec, bind, one_line, parameters, resolve, suggest


class Training(Record):
    """A group of options that several functions share."""

    epochs: int = Field(default=10, ge=1, description="Passes over the data.")
    rate: float = 0.1


def tune(
    model,
    data,
    /,
    *,
    steps: Annotated[int, Field(ge=1)] = 7,
    loss: Literal["ce", "dlr"] = "ce",
    size: float | None = None,
    training: Training = Training(epochs=3),  # noqa: B008
):
    """Tune.

    Args:
        steps: Steps of the inner attack; more are
            stronger and slower.
        loss: What they raise.
        rate: Learning rate, at the peak.

    Raises:
        ValueError: never.
    """
    return steps, loss, size, training


def needs(model, /, *, strength: float):
    return strength


REGISTRY = {"tune": tune, "needs": needs}


def complaint(spec, where="candidates.tuned"):
    with pytest.raises(ConfigError) as caught:
        bind(REGISTRY, spec, where)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_come_from_the_signature():
    assert bind(REGISTRY, Spec(name="tune"))(0, 0) == (7, "ce", None, Training(epochs=3))


def test_parameters_are_checked_and_converted():
    bound = bind(REGISTRY, Spec(name="tune", params={"steps": 9, "loss": "dlr", "size": 1}))
    assert bound(0, 0)[:3] == (9, "dlr", 1.0)


def test_fields_of_a_group_stand_beside_the_functions_own():
    bound = bind(REGISTRY, Spec(name="tune", params={"epochs": 5, "steps": 2}))
    assert bound(0, 0) == (2, "ce", None, Training(epochs=5, rate=0.1))


def test_a_group_keeps_this_functions_defaults():
    assert resolve(tune, {"rate": 0.5})["training"] == Training(epochs=3, rate=0.5)


def test_resolving_leaves_the_function_and_the_group_as_they_were():
    resolve(tune, {"epochs": 99})
    assert resolve(tune, {})["training"].epochs == 3
    assert Training().epochs == 10


def test_an_unknown_name_gets_the_nearest():
    text = complaint(Spec(name="tun"))
    where, _, what = text.partition(": ")
    assert where == "candidates.tuned"
    assert what == "unknown name 'tun', did you mean 'tune'? (expected one of needs, tune)"


def test_an_unknown_name_with_no_neighbour_gets_the_list():
    assert complaint(Spec(name="zzz"), "") == "unknown name 'zzz', expected one of needs, tune"


def test_an_unknown_parameter_gets_the_nearest_of_the_flat_names():
    text = complaint(Spec(name="tune", params={"epoch": 5}))
    assert text.startswith(
        "candidates.tuned: tune: unknown parameter 'epoch', did you mean 'epochs'?"
    )


def test_the_group_itself_is_no_parameter():
    assert "unknown parameter 'training'" in complaint(
        Spec(name="tune", params={"training": {"epochs": 5}})
    )


@pytest.mark.parametrize(
    ("params", "place", "got"),
    [
        ({"steps": 0}, "tune.steps", "got 0"),
        ({"steps": "many"}, "tune.steps", "got 'many'"),
        ({"steps": 1.5}, "tune.steps", "got 1.5"),
        ({"loss": "mse"}, "tune.loss", "got 'mse'"),
        ({"epochs": -1}, "tune.epochs", "got -1"),
        ({"rate": None}, "tune.rate", "got None"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(params, place, got):
    text = complaint(Spec(name="tune", params=params))
    assert text.startswith(f"candidates.tuned: {place}: ")
    assert got in text


def test_a_missing_required_parameter_is_named():
    assert complaint(Spec(name="needs")).startswith("candidates.tuned: needs.strength: ")


def test_several_mistakes_are_counted():
    assert complaint(Spec(name="tune", params={"steps": 0, "rate": "x"})).endswith("(and 1 more)")


def test_a_spec_refuses_fields_it_does_not_know():
    with pytest.raises(ValidationError, match="parms"):
        Spec(name="tune", parms={})


def test_suggest_with_nothing_to_offer():
    assert suggest("anything", []) == "none is expected"


def test_one_line_names_nested_fields_and_keeps_a_validators_own_words():
    class Inner(BaseModel):
        eps: Annotated[float, Field(gt=0)]

    class Outer(BaseModel):
        threats: list[Inner]

    with pytest.raises(ValidationError) as caught:
        Outer(threats=[{"eps": 1}, {"eps": -2}])
    assert one_line(caught.value) == "threats.1.eps: Input should be greater than 0, got -2"
    assert one_line(caught.value, "config").startswith("config.threats.1.eps: ")


def test_parameters_tell_a_user_name_type_default_and_meaning():
    assert parameters(tune) == [
        Parameter("steps", "int", "7", "Steps of the inner attack; more are stronger and slower."),
        Parameter("loss", "ce, dlr", "'ce'", "What they raise."),
        Parameter("size", "float | None", "None", ""),
        Parameter("epochs", "int", "3", "Passes over the data."),
        Parameter("rate", "float", "0.1", "Learning rate, at the peak."),
    ]
    assert parameters(needs) == [Parameter("strength", "float", "required", "")]


def test_a_function_without_hyper_parameters_refuses_any():
    def plain(model, /):
        return model

    assert parameters(plain) == []
    with pytest.raises(ConfigError, match="unknown parameter 'x', none is expected"):
        bind({"plain": plain}, Spec(name="plain", params={"x": 1}))


def test_a_bound_function_is_a_partial_that_can_be_read():
    bound = bind(REGISTRY, Spec(name="needs", params={"strength": 2}))
    assert isinstance(bound, partial)
    assert bound.keywords == {"strength": 2.0}
