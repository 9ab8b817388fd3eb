"""Each alarm fires on the failure it is for, and is quiet on a healthy model."""

from hardening.alarms import alarms
from hardening.evidence import AttackRow
from hardening.statistics import accuracy

N = 100


def row(kind, survivors, *, source="file", source_accuracy=0.0, loss=None):
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
        unconfirmed=0,
        source_accuracy=source_accuracy,
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
    }


def test_zero_gradients():
    assert fired(HEALTHY, zero=0.02) == {"zero gradients"}


def test_a_gradient_free_attack_that_wins_alone():
    rows = [*HEALTHY[:2], row("gradient-free", range(2, 60))]
    assert fired(rows) == {"gradient-free beats white-box"}


def test_one_image_in_a_hundred_may_be_luck():
    assert fired([*HEALTHY[:2], row("gradient-free", range(1, 60))]) == set()


def test_a_transfer_that_wins_alone():
    rows = [*HEALTHY, row("transfer", range(10, 60), source="parent", source_accuracy=0.5)]
    assert "transfer beats white-box" in fired(rows)


def test_losses_that_disagree():
    rows = [row("white-box", range(95), loss="ce"), *HEALTHY[1:]]
    assert fired(rows) == {"losses disagree"}


def test_an_int8_file_that_looks_harder_than_its_parent():
    """Naive gradients through rounding: 97 survive, the parent keeps 15."""
    rows = [
        row("straight-through", range(97)),
        row("transfer", range(97), source="parent", source_accuracy=0.15),
    ]
    assert fired(rows) == {"int8 above float"}
