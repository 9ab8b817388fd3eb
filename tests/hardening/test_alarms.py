"""Each alarm fires on the failure it is for, and is quiet on a healthy model."""

from hardening.alarms import alarms
from hardening.evidence import AttackRow
from hardening.statistics import accuracy

N = 100


def row(kind, survivors, *, source="file", on_source=range(N), unconfirmed=0, loss=None):
    survived = [index in survivors for index in range(N)]
    return AttackRow(
        name=kind,
        attack="apgd",
        params={"loss": loss} if loss else {},
        source=source,
        kind=kind,
        accuracy=accuracy(survived),
        survived=survived,
        mean_distance=None,
        unconfirmed=unconfirmed,
        source_accuracy=len(on_source) / N,
        source_survived=[index in on_source for index in range(N)],
        forwards=1,
        backwards=1,
        seconds=1,
        adversarial="0" * 64,
    )


def fired(rows, zero=0.0):
    return {alarm.name for alarm in alarms(rows, zero, [True] * N) if alarm.fired}


HEALTHY = [
    row("white-box", range(50), loss="ce"),
    row("white-box", range(48), loss="dlr"),
    row("gradient-free", range(60)),
]


def test_a_healthy_model_is_quiet_and_every_alarm_is_listed():
    assert fired(HEALTHY) == set()
    assert {alarm.name for alarm in alarms(HEALTHY, 0.0, [True] * N)} == {
        "zero gradients",
        "gradient-free beats white-box",
        "losses disagree",
        "unconfirmed successes",
    }


def test_a_twin_that_is_not_its_file():
    rows = [row("white-box", range(50), loss="ce", unconfirmed=1), *HEALTHY[1:]]
    assert fired(rows) == {"unconfirmed successes"}


def test_zero_gradients():
    assert fired(HEALTHY, zero=0.02) == {"zero gradients"}


def test_a_gradient_free_attack_that_wins_alone():
    rows = [*HEALTHY[:2], row("gradient-free", range(2, 60))]
    assert fired(rows) == {"gradient-free beats white-box"}


def test_one_image_in_a_hundred_may_be_luck():
    assert fired([*HEALTHY[:2], row("gradient-free", range(1, 60))]) == set()


def test_a_transfer_that_wins_alone():
    rows = [*HEALTHY, row("transfer", range(10, 60), source="parent", on_source=range(50))]
    assert "transfer beats white-box" in fired(rows)


def test_losses_that_disagree():
    rows = [row("white-box", range(95), loss="ce"), *HEALTHY[1:]]
    assert fired(rows) == {"losses disagree"}


def test_an_int8_file_that_looks_harder_than_its_parent():
    """Naive gradients through rounding: 97 survive, the parent keeps 15."""
    rows = [
        row("straight-through", range(97)),
        row("transfer", range(97), source="parent", on_source=range(15)),
    ]
    assert fired(rows) == {"int8 above float"}


def test_a_clean_drop_of_the_int8_file_does_not_hide_the_gap():
    """80 right on clean images, 45 under attack; the parent keeps 30 of all under attack."""
    rows = [
        row("straight-through", range(45)),
        row("transfer", range(60), source="parent", on_source=range(30)),
    ]
    assert fired(rows) == {"int8 above float"}
