"""A file of any layout, range and kind of answer is the model that it stands for."""

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from hardening.certify.interval import interval
from hardening.data import Labelled
from hardening.deployment.contract import KEY, Contract, contract_of, with_contract
from hardening.deployment.export import export, strip
from hardening.deployment.parity import prove
from hardening.deployment.quantize import quantize_int8
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.deployment.untrusted import read_model
from hardening.errors import ModelError
from hardening.evaluation import check_logits
from hardening.log import Silent
from hardening.threat import ThreatModel

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


class Around(nn.Module):
    """A network that somebody else wrote around `net`."""

    def __init__(self, net, before, after):
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, images):
        return self.after(self.net(self.before(images)))


def same(x):
    return x


def unscaled(x):
    """Undoes (255 x - mean) / std."""
    spread, middle = (255 * torch.tensor(values)[:, None, None] for values in (STD, MEAN))
    return (x * spread + middle) / 255


FORMS = {
    "NHWC": (lambda x: x.permute(0, 3, 1, 2), same, {"layout": "NHWC"}),
    "0..255": (lambda x: x / 255, same, {"range": "0..255"}),
    "mean and std": (
        lambda x: x * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None],
        same,
        {"mean": MEAN, "std": STD},
    ),
    "all at once": (
        lambda x: unscaled(x.permute(0, 3, 1, 2)),
        lambda logits: logits.softmax(1),
        {
            "layout": "NHWC",
            "range": "0..255",
            "mean": [255 * value for value in MEAN],
            "std": [255 * value for value in STD],
            "outputs": "probabilities",
        },
    ),
    "softmax": (same, lambda logits: logits.softmax(1), {"outputs": "probabilities"}),
    "sigmoid": (same, torch.sigmoid, {"outputs": "probabilities"}),
    "log-softmax": (same, lambda z: z.log_softmax(1), {"outputs": "log-probabilities"}),
}


@pytest.fixture(scope="module")
def forms(models):
    """Every form of the plain net as (file with its contract, logits to expect)."""

    def made(before, after, fields):
        height, width, channels = 16, 16, 3
        shape = (height, width, channels) if fields.get("layout") else (channels, height, width)
        data = export(Around(models["plain"], before, after).eval(), shape)
        return with_contract(data, Contract(**fields))

    return {name: made(*form) for name, form in FORMS.items()}


def expected(name, logits):
    if name == "sigmoid":  # answers are read before it
        return logits
    return logits.log_softmax(1) if FORMS[name][2].get("outputs") else logits


@pytest.mark.parametrize("name", FORMS)
def test_the_session_answers_as_the_model_itself(forms, models, tools, name):
    x = tools.pictures(70)
    with torch.no_grad():
        logits = models["plain"](x)
    answers = Session(forms[name])(x)
    torch.testing.assert_close(answers, expected(name, logits), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FORMS)
def test_the_twin_answers_as_the_session_with_the_gradients_of_the_model(
    forms, models, tools, name
):
    x, twin = tools.pictures(20), Twin(forms[name])
    prove(name, twin, Session(forms[name]), x)
    weights = torch.linspace(-1, 1, 10)
    images = x.clone().requires_grad_()
    (ours,) = torch.autograd.grad((twin(images) * weights).sum(), images)
    (its,) = torch.autograd.grad((expected(name, models["plain"](images)) * weights).sum(), images)
    torch.testing.assert_close(ours, its, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["all at once", "softmax", "log-softmax"])
def test_quantizing_keeps_the_contract_and_the_logits_in_float(forms, tools, name):
    x = tools.pictures(64)
    int8 = quantize_int8(forms[name], tools.pictures(64, seed=7))
    assert contract_of(read_model(int8, name)) == Contract(**FORMS[name][2])
    answers = Session(int8)(x)
    assert (answers.argmax(1) == Session(forms[name])(x).argmax(1)).float().mean() > 0.85
    assert len(answers.unique()) > 256, "logits were quantized"
    prove(name, Twin(int8), Session(int8), x)


def test_the_graph_itself_is_untouched(floats):
    data = floats["plain"]
    carrying = with_contract(data, Contract(range="0..255"))
    assert carrying.startswith(data)
    proto = onnx.load_model_from_string(carrying)
    assert [entry.key for entry in proto.metadata_props] == [KEY]
    assert contract_of(strip(proto)) == Contract(range="0..255")
    assert export(Twin(carrying), (3, 16, 16)) == carrying
    del proto.metadata_props[:]
    assert proto == onnx.load_model_from_string(data)


def test_a_file_in_our_own_form_stays_as_it_is(floats):
    assert with_contract(floats["plain"], Contract()) == floats["plain"]
    assert with_contract(floats["plain"], Contract(layout="NCHW")) == floats["plain"]


def test_a_contract_in_the_file_needs_no_second_one_and_refuses_another(floats):
    data = with_contract(floats["plain"], Contract(range="0..255"))
    assert with_contract(data, Contract()) == data
    assert with_contract(data, Contract(range="0..255")) == data
    with pytest.raises(ModelError, match=r'carries the contract .*"0..255".*, got .*"0..1"'):
        with_contract(data, Contract(range="0..1"))


def test_a_contract_that_is_not_understood_is_refused(floats):
    proto = onnx.load_model_from_string(floats["plain"])
    helper.set_model_props(proto, {KEY: '{"layuot": "NHWC"}'})
    with pytest.raises(ModelError, match=r"temper.contract.layuot"):
        Session(proto.SerializeToString())


def several(data):
    """The file with the input of its last layer as a further output, in front of the logits."""
    proto = onnx.load_model_from_string(data)
    graph = proto.graph
    head = next(node for node in graph.node if "logits" in node.output)
    graph.node.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1))
    logits = graph.output.pop()
    graph.output.extend(
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch", 1]),
            helper.make_tensor_value_info(head.input[0], TensorProto.FLOAT, ["batch", 12]),
            logits,
        ]
    )
    return proto.SerializeToString()


def test_one_of_several_outputs_is_chosen_by_name(floats, tools):
    data, x = several(floats["plain"]), tools.pictures(20)
    with pytest.raises(
        ModelError, match=r"got outputs .*'logits'.*, or one of them as model.output"
    ):
        Session(data)
    with pytest.raises(ModelError, match=r"got 'logit' as model.output, expected one of"):
        Session(with_contract(data, Contract(output="logit")))
    chosen = with_contract(data, Contract(output="logits"))
    assert torch.equal(Session(chosen)(x), Session(floats["plain"])(x))
    prove("several", Twin(chosen), Session(chosen), x)
    int8 = quantize_int8(chosen, x)
    prove("several, int8", Twin(int8), Session(int8), x)


def test_several_true_inputs_are_refused_by_name(floats):
    proto = onnx.load_model_from_string(floats["plain"])
    proto.graph.input.append(helper.make_tensor_value_info("temperature", 1, [1]))
    with pytest.raises(ModelError, match=r"got inputs \['input', 'temperature'\]"):
        Session(with_contract(proto.SerializeToString(), Contract(input="input")))


def test_a_stored_tensor_among_the_inputs_is_no_second_input(floats, tools):
    proto = onnx.load_model_from_string(floats["plain"])
    stored = proto.graph.initializer[0]
    proto.graph.input.append(
        helper.make_tensor_value_info(stored.name, stored.data_type, list(stored.dims))
    )
    data = with_contract(proto.SerializeToString(), Contract(input="input"))
    x = tools.pictures(4)
    # What may be overridden is not folded: sums are rounded in another order.
    torch.testing.assert_close(Session(data)(x), Session(floats["plain"])(x))


def test_another_input_than_the_file_s_is_refused(floats):
    with pytest.raises(ModelError, match=r"got 'images' as model.input, expected one of"):
        Session(with_contract(floats["plain"], Contract(input="images")))


def test_a_normalisation_for_other_channels_is_refused(floats):
    with pytest.raises(ModelError, match=r"got 1 numbers as model.mean and model.std, expected 3"):
        Session(with_contract(floats["plain"], Contract(mean=[0.5], std=[0.5])))


def test_images_are_asked_for_as_ours_whatever_the_layout(forms):
    with pytest.raises(ModelError, match=r"expected \(B, 3, 16, 16\)"):
        Session(forms["NHWC"])(torch.zeros(1, 16, 16, 3))


def test_logits_declared_as_probabilities_are_refused(floats, tools):
    with pytest.raises(ModelError, match=r"expected \[0, 1\] as model.outputs says"):
        Session(with_contract(floats["plain"], Contract(outputs="probabilities")))(
            tools.pictures(9)
        )


def test_probabilities_that_are_not_declared_are_refused_with_what_to_write(models, tools):
    data = export(Around(models["plain"], same, lambda z: z.softmax(1)).eval(), (3, 16, 16))
    with pytest.raises(ModelError, match=r"model.outputs: probabilities"):
        check_logits("mine", Session(data)(tools.pictures(20)), 10)


def test_interval_bounds_are_those_of_the_model_in_any_form(forms, floats, models, tools):
    """Rounding of the preparation is added to the bounds: they are lower by next to nothing."""
    x, rng = tools.pictures(32), torch.Generator()
    y = Session(floats["plain"])(x).argmax(1)
    threat = ThreatModel(norm="linf", eps=1e-4)
    figure = "median lower bound of the margin"
    plain = interval(floats["plain"], Labelled(x, y), threat, rng, Silent())
    for name in ("NHWC", "0..255", "all at once"):
        found = interval(forms[name], Labelled(x, y), threat, rng, Silent())
        assert found.figures[figure] <= plain.figures[figure] + 1e-6
        assert found.figures[figure] > plain.figures[figure] - 0.05 * abs(plain.figures[figure])
