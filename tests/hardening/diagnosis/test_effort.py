"""G7, G8, G12 to G15: what is counted, on whom, and from how many images on it fires.

Attacks here break the images they are told to, so every count is known.
"""

import pytest
import torch

from hardening.errors import ThreatViolation
from hardening.threat import ThreatModel

N = 128


@pytest.fixture
def look(written, examine):
    """`look(gate, survivors, **probes)`: one gate with these attacks, the others break nobody."""

    def run(gate, survivors=range(N), **probes):
        stand = torch.zeros(N, dtype=torch.bool)
        stand[list(survivors)] = True
        changed = written.probes._replace(**probes)
        return examine(written.model, written.images(N), stand, [gate], probes=changed)[gate]

    return run


@pytest.mark.parametrize(
    ("one", "many", "found"), [(range(9), range(9), 0), (range(9), range(4), 5), ((), range(9), 0)]
)
def test_one_step_beats_many_image_by_image(one, many, found, look, written):
    alarm = look("G7", fgsm=written.breaking(*one), pgd=written.breaking(*many))
    assert alarm.value == found / N
    assert alarm.fired == (found > 2)


def test_equal_totals_do_not_hide_different_images(look, written):
    alarm = look("G7", fgsm=written.breaking(0, 1, 2), pgd=written.breaking(7, 8, 9))
    assert alarm.value == 3 / N


def test_many_steps_are_spent_only_on_what_one_step_broke(look, written):
    seen = []
    look("G7", fgsm=written.breaking(4, 7), pgd=written.breaking(seen=seen))
    assert seen[0][0] == [4, 7]


@pytest.mark.parametrize(("standing", "fires"), [(0, False), (1, False), (2, True)])
def test_what_stands_without_a_bound(standing, fires, look, written):
    alarm = look("G8", unbounded=written.breaking(*range(standing, N)))
    assert (alarm.value, alarm.limit) == (standing / N, 1 / N)
    assert alarm.fired == fires


def test_without_a_bound_means_the_whole_range_and_only_survivors(look, written):
    seen = []
    look("G8", [3, 5, 8], unbounded=written.breaking(3, 5, 8, seen=seen))
    assert seen == [([3, 5, 8], 1.0)]


@pytest.mark.parametrize(
    ("gate", "probe", "quiet"), [("G12", "apgd_long", 2), ("G13", "apgd_restarts", 3)]
)
def test_more_effort_fires_when_the_sample_shows_it_beyond_its_noise(
    gate, probe, quiet, look, written
):
    for found, fires in ((0, False), (quiet, False), (quiet + 1, True)):
        alarm = look(gate, **{probe: written.breaking(*range(found))})
        assert (alarm.value, alarm.limit) == (found / N, quiet / N)
        assert alarm.fired == fires


@pytest.mark.parametrize("probe", ["apgd_long", "apgd_restarts", "noise"])
def test_only_survivors_are_attacked_again(probe, look, written):
    seen = []
    gate = {"apgd_long": "G12", "apgd_restarts": "G13", "noise": "G15"}[probe]
    alarm = look(gate, [2, 3], **{probe: written.breaking(*range(N), seen=seen)})
    assert seen[0][0] == [2, 3]
    assert alarm.value == 2 / N


@pytest.mark.parametrize("gate", ["G8", "G12", "G13", "G15"])
def test_nobody_survived_so_nothing_can_be_missed(gate, look):
    alarm = look(gate, [])
    assert (alarm.value, alarm.fired) == (0, False)


def test_a_larger_sample_shows_a_smaller_share(written, examine):
    probes = written.probes._replace(apgd_long=written.breaking(*range(12)))
    n = 900  # 12 of 900 is 1.3 %; of 128 images the same share is 2 and quiet
    survivors = torch.ones(n, dtype=torch.bool)
    found = examine(written.model, written.images(n), survivors, ["G12"], probes=probes)
    assert found["G12"].fired


@pytest.mark.parametrize("weak", ["apgd_ce", "apgd_margin"])
def test_losses_disagree_whichever_is_the_weak_one(weak, look, written):
    probes = {"apgd_ce": written.breaking(*range(50)), "apgd_margin": written.breaking(*range(50))}
    assert look("G14", **probes).value == 0
    alarm = look("G14", **probes | {weak: written.breaking(*range(30))})
    assert alarm.value == pytest.approx(20 / N)
    assert alarm.fired


def test_one_image_that_falls_to_noise_is_one_too_many(look, written):
    assert look("G15", noise=written.breaking(5)).fired
    assert not look("G15").fired


def test_an_image_that_is_wrong_as_it_is_counts_for_nobody(written, examine):
    images = written.images(N)
    images.images[:9, 0, 1, 1] = 0.05
    probes = written.probes._replace(
        **dict.fromkeys(("apgd_long", "noise", "fgsm"), written.breaking(*range(9)))
    )
    found = examine(written.model, images, gates=("G7", "G12", "G15"), probes=probes)
    assert [alarm.value for alarm in found.values()] == [0, 0, 0]


@pytest.mark.parametrize("gate", ["G7", "G12", "G13", "G14", "G15"])
def test_a_probe_that_leaves_the_threat_model_is_an_error(gate, written, examine):
    probes = type(written.probes)(*[written.breaking(0)] * 8)
    tight = ThreatModel(norm="linf", eps=0.01)
    with pytest.raises(ThreatViolation):
        examine(written.model, written.images(4), gates=[gate], probes=probes, threat=tight)
