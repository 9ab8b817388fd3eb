import pytest
import torch

from defenses.adversarial_training import adversarial_training
from defenses.quantization import quantization
from defenses.quantization_aware import quantization_aware
from defenses.standard import standard
from defenses.training import Loop
from hardening.deployment.export import export
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.log import Silent

SHORT = {
    "steps": 2,
    "loop": Loop(epochs=2, learning_rate=2e-3, ramp=0, batch_size=64, validation_images=10),
}
"""Fewer images choose the best epoch than there are: which, is drawn."""


@pytest.fixture
def trained(model, data, generator):
    return standard(model, data, generator(), Silent(), loop=Loop(epochs=6))


def right(file, data, threat=None):
    """Accuracy of the session on validation images, after a gradient step of its twin's."""
    x, y = data.validation.floats(), data.validation.labels
    if threat is not None:
        z = x.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(file(z), y)
        x = threat.project(x, x + threat.eps * threat.ascend(torch.autograd.grad(loss, z)[0]))
    return float((Session(file.data)(x).argmax(1) == y).float().mean())


@pytest.mark.parametrize(("bits", "precision"), [(8, "int8"), (4, "int4"), (3, "int4")])
def test_the_file_is_harder_than_one_only_quantized(
    bits, precision, trained, data, threat, generator
):
    threat = threat.scaled(3)
    plain = quantization(trained, data, threat, generator(), Silent(), bits=bits)

    aware = quantization_aware(trained, data, threat, generator(), Silent(), bits=bits, **SHORT)

    session, x = Session(aware.data), data.validation.floats()
    assert session.facts().precision == precision
    assert torch.allclose(session(x), aware(x), atol=0 if bits == 8 else 1e-5)
    assert right(aware, data) > 0.9
    assert right(aware, data, threat) > right(plain, data, threat) + 0.05


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
def test_a_training_that_was_stopped_in_any_round_ends_with_the_same_bytes(
    after, trained, data, threat, generator, recorder
):
    threat, uninterrupted = threat.scaled(3), type(recorder)()
    whole = quantization_aware(trained, data, threat, generator(), uninterrupted, **SHORT)
    save, saved = recorder.save, []

    def stop(checkpoint):
        save(checkpoint)
        saved.append(checkpoint)
        if len(saved) == after:
            raise Stopped

    recorder.save = stop
    with pytest.raises(Stopped):
        quantization_aware(trained, data, threat, generator(), recorder, **SHORT)
    recorder.save = save

    resumed = quantization_aware(trained, data, threat, generator(), recorder, **SHORT)

    assert resumed.data == whole.data
    assert [step for step, _ in recorder.rows] == [1, 2, 3, 4]
    assert recorder.rows == uninterrupted.rows


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_the_loop_trains_a_file_as_it_is(form, trained, data, threat, generator):
    file = Twin(export(trained, (1, 8, 8)))
    if form == "int8":
        file = quantization(trained, data, threat, generator(), Silent())

    hardened = adversarial_training(file, data, threat, generator(), Silent(), **SHORT)

    assert isinstance(hardened, Twin)
    assert hardened.data != file.data
    assert Session(hardened.data).facts().precision == form
    assert right(hardened, data) > 0.9
