import hashlib

import pytest
import torch

from hardening.deployment.session import Session
from hardening.errors import ModelError


def test_facts_are_those_of_the_bytes(floats, ints):
    for data, precision in ((floats["plain"], "float32"), (ints["plain"], "int8")):
        facts = Session(data, threads=1).facts()

        assert facts.sha256 == hashlib.sha256(data).hexdigest()
        assert facts.bytes == len(data)
        assert facts.precision == precision
        assert facts.opset == 20
        assert facts.operators["Conv"] == 2
        assert facts.threads == 1
        assert facts.optimization == "all"
        assert facts.providers[-1] == "CPUExecutionProvider"


def test_by_default_it_takes_the_threads_torch_takes(floats):
    assert Session(floats["plain"]).facts().threads == torch.get_num_threads()


def test_logits_do_not_depend_on_chunks_threads_or_gradients(int8_file, tools):
    x = tools.pictures(300)
    whole = Session(int8_file, threads=1)(x)

    assert whole.shape == (300, 10)
    assert whole.dtype == torch.float32
    pieces = torch.cat([Session(int8_file, threads=2)(part) for part in x.split(7)])
    assert torch.equal(pieces, whole)
    assert torch.equal(Session(int8_file)(x.clone().requires_grad_()), whole)
    assert torch.equal(Session(int8_file)(x.to(memory_format=torch.channels_last)), whole)


def test_starting_and_running_say_nothing(floats, tools, capfd):
    Session(floats["plain"])(tools.pictures(2))

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 8)])
def test_images_of_another_shape_are_refused(floats, shape):
    with pytest.raises(ModelError, match=r"got images of shape \(2, .*expected \(B, 3, 16, 16\)"):
        Session(floats["plain"])(torch.rand(2, *shape))


def test_no_images_are_refused(floats):
    with pytest.raises(ModelError, match="got images of shape"):
        Session(floats["plain"])(torch.rand(0, 3, 16, 16))


def test_what_the_runtime_has_no_kernel_for_is_refused_in_one_line(tools):
    data = tools.parsed(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[batch,1,4,4] x) => (float[batch,16] y)
        { a = Cast<to = 16>(x) b = MatMul(a, a) c = Cast<to = 1>(b) y = Flatten(c) }"""
    )

    with pytest.raises(ModelError, match=r"^ONNX file \w{12}: ONNX Runtime does not run it") as got:
        Session(data)
    assert "\n" not in str(got.value)
