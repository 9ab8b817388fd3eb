"""What the stack keeps between two starts: its ports, its secrets, and the file that users source.

ports.json     a port per service: SeaweedFS finds its data under its old ports only
secrets.json   made once, at random, for this machine (0600)
env.sh         the variables that lead to the stack, with secrets (0600)
"""

import base64
import json
import os
import secrets
import shlex
import socket
from pathlib import Path
from typing import NamedTuple

PORTS = (
    *("postgres", "mlflow", "prefect", "worker", "receiver"),
    *("s3", "s3.grpc", "master", "master.grpc", "volume", "volume.grpc"),
    *("filer", "filer.grpc", "admin"),
)


class Secrets(NamedTuple):
    """Every secret of the stack."""

    postgres: str
    prefect: str
    s3_access: str
    s3_secret: str
    webhook: str
    fernet: str
    """With this key MLflow encrypts the webhook's secret in its database."""


class Kept(NamedTuple):
    """A stack's folder, its ports and its secrets."""

    folder: Path
    ports: dict[str, int]
    secrets: Secrets

    def url(self, service: str) -> str:
        """Where a service listens."""
        return f"http://127.0.0.1:{self.ports[service]}"

    def user_environment(self) -> dict[str, str]:
        """The variables that lead to the stack."""
        return {
            "PREFECT_API_URL": f"{self.url('prefect')}/api",
            "PREFECT_API_AUTH_STRING": f"temper:{self.secrets.prefect}",
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            "TEMPER_STORE": "s3://temper/store",
            "TEMPER_SLOT": socket.gethostname(),
            "TEMPER_WEBHOOK_SECRET": self.secrets.webhook,
            **self.s3_environment(),
        }

    def s3_environment(self) -> dict[str, str]:
        """The variables that lead to the object store."""
        return {
            "AWS_ENDPOINT_URL": self.url("s3"),
            "AWS_ACCESS_KEY_ID": self.secrets.s3_access,
            "AWS_SECRET_ACCESS_KEY": self.secrets.s3_secret,
            "AWS_REGION": "us-east-1",
        }


def keep(folder: Path) -> Kept:
    """The ports and secrets of the stack in `folder`, made at its first start."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)  # PostgreSQL's user passes through; every file in it is 0600
    kept = Kept(folder, _ports(folder / "ports.json"), _secrets(folder / "secrets.json"))
    lines = [f"export {k}={shlex.quote(v)}\n" for k, v in kept.user_environment().items()]
    write_private(folder / "env.sh", "".join(lines))
    return kept


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else can read at any moment, at once."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def _ports(path: Path) -> dict[str, int]:
    if not path.exists():
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
        numbers = [each.getsockname()[1] for each in sockets]
        for each in sockets:
            each.close()
        write_private(path, json.dumps(dict(zip(PORTS, numbers, strict=True))))
    ports: dict[str, int] = json.loads(path.read_text())
    return ports


def _secrets(path: Path) -> Secrets:
    if not path.exists():
        write_private(path, json.dumps(_new_secrets()._asdict()))
    return Secrets(**json.loads(path.read_text()))


def _new_secrets() -> Secrets:
    made = Secrets(*(secrets.token_hex(24) for _ in Secrets._fields))
    return made._replace(fernet=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())


if __name__ == "__main__":
    new = _new_secrets()
    print(f"POSTGRES_PASSWORD={new.postgres}\nPREFECT_PASSWORD={new.prefect}")
    print(f"S3_ACCESS_KEY={new.s3_access}\nS3_SECRET_KEY={new.s3_secret}")
    print(f"TEMPER_WEBHOOK_SECRET={new.webhook}")
    print(f"MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY={new.fernet}")
