"""What `temper doctor` says of one thing."""

from hardening.spec import Record


class Finding(Record):
    """One line: what was looked at, whether it is well, what was found and what to do."""

    check: str
    ok: bool
    found: str
    cure: str = ""


def well(check: str, found: str) -> Finding:
    """What is as it should be."""
    return Finding(check=check, ok=True, found=found)


def wrong(check: str, found: str, cure: str) -> Finding:
    """What is not, and what to do."""
    return Finding(check=check, ok=False, found=found, cure=cure)
