import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from hardening.data.types import metadata
from hardening.deployment.export import export
from hardening.deployment.twin import Twin
from hardening.errors import ConfigError, ModelError
from hardening.models import files
from hardening.models.architecture import Architecture, build
from hardening.models.form import Form
from hardening.spec import Spec

SHAPE = (1, 8, 8)


class Scaled(Form):
    """The mean answer of its parts, times a number and a weight of its own."""

    def __init__(self, parts, factor):
        super().__init__(Spec(name="scaled", params={"factor": factor}), parts)
        self.factor = factor
        self.own = nn.Linear(1, 1)

    def forward(self, x):
        answers = torch.stack([part(x) for part in self.parts]).mean(0)
        return answers * self.factor * self.own.weight[0, 0]


def scaled(parts, *, factor: float = 2.0):
    return Scaled(parts, factor)


FORMS = {"scaled": scaled}


def classifier(seed):
    return build(
        Architecture(
            name="small_cnn",
            params={"width": 2},
            shape=SHAPE,
            classes=3,
            mean=(0.1,),
            std=(0.5,),
        ),
        seed,
    ).eval()


def test_a_form_around_forms_files_and_classifiers_comes_back_bit_for_bit():
    twin = Twin(export(classifier(1), SHAPE))
    form = scaled([scaled([classifier(2)], factor=0.5), twin, classifier(3)]).eval()

    loaded = files.load(files.save(form), forms=FORMS)

    assert not loaded.training
    assert loaded.spec == form.spec
    assert loaded.parts[1].data == twin.data
    x = torch.rand(2, *SHAPE)
    assert torch.equal(loaded(x), form(x))
    assert files.save(loaded) == files.save(form)


def test_a_form_that_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match=r"^form: unknown name 'scaled'"):
        files.load(files.save(scaled([classifier(1)])))


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('"factor"', '"facto"', ConfigError),
        ('"parts"', '"pars"', ModelError),
        ('"form"', '"fork"', ModelError),
        ('"classes":3', '"classes":4', ModelError),
    ],
)
def test_a_header_that_does_not_fit_is_refused(old, new, error):
    data = files.save(scaled([classifier(1)]))
    changed = save_tensors(
        load_tensors(data), {"form": metadata(data)["form"].replace(old, new, 1)}
    )

    with pytest.raises(error):
        files.load(changed, forms=FORMS)


@pytest.mark.parametrize("key", ["own.own.weight", "own.more"])
def test_tensors_that_do_not_fit_the_form_are_refused(key):
    data = files.save(scaled([classifier(1)]))
    tensors = load_tensors(data)
    if key in tensors:
        del tensors[key]
    else:
        tensors[key] = torch.zeros(1)

    with pytest.raises(ModelError, match="tensors do not fit scaled"):
        files.load(save_tensors(tensors, metadata(data)), "m", FORMS)


def test_what_is_no_model_of_ours_is_not_saved():
    with pytest.raises(TypeError, match="got a Linear"):
        files.save(scaled([nn.Linear(2, 2)]))
