"""What `temper doctor` says of one thing."""

from hardening.spec import Record


class Finding(Record):
    """One line: what was looked at, whether it is well, what was found and what to do."""

    check: str
    ok: bool
    found: str
    cure: str = ""
