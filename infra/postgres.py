"""A PostgreSQL of the machine's own, with its files in a folder of ours and one password."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from sqlalchemy import create_engine, text

from hardening.errors import ConfigError, ServiceError

USER = "temper"

DEBIAN = "/usr/lib/postgresql"
"""Where Debian and Ubuntu keep the programs, one folder per version, on nobody's PATH."""


def program(name: str) -> str:
    """The path of a program of PostgreSQL's.

    Raises:
        ConfigError: It is not installed.
    """
    versions = sorted(Path(DEBIAN).glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, versions)])
    found = shutil.which(name, path=path)
    if found is None:
        raise ConfigError(
            f"{name}: not found, expected PostgreSQL; install the package `postgresql` "
            "(apt install postgresql, dnf install postgresql-server, brew install postgresql)"
        )
    return found


def owner() -> str | None:
    """Who must run it, when it cannot be us: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def initialise(folder: Path, password: str) -> None:
    """Make a database cluster in `folder`, unless there is one.

    Raises:
        ConfigError: PostgreSQL is not installed, or its user cannot enter the folder.
        ServiceError: It cannot be made.
    """
    if folder.exists():
        return
    user = owner()
    draft = folder.with_suffix(".new")  # a cluster that was begun and not finished is no cluster
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    words = folder.with_suffix(".password")
    words.touch(mode=0o600)
    words.write_text(password)
    if user is not None:
        shutil.chown(draft, user)
        shutil.chown(words, user)
    command = [program("initdb"), "--pgdata", str(draft), "--username", USER]
    command += ["--auth", "scram-sha-256", "--pwfile", str(words)]
    command += ["--encoding", "UTF8", "--locale", "C"]
    try:
        done = subprocess.run(  # noqa: S603  PostgreSQL's own program
            command, cwd="/", user=user, capture_output=True, text=True, check=False
        )
    finally:
        words.unlink()
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        hint = f"; user {user} must be able to enter it" if "ermission" in done.stderr else ""
        raise ServiceError(f"PostgreSQL in {folder}: cannot be made ({why}){hint}")
    draft.rename(folder)


def command(folder: Path, port: int) -> list[str]:
    """What to run: the server on loopback only, without a socket in the file system."""
    words = [program("postgres"), "-D", str(folder), "-h", "127.0.0.1", "-p", str(port)]
    return [*words, "-c", "unix_socket_directories="]


def url(port: int, password: str, database: str, driver: str = "psycopg2") -> str:
    """The address of a database, as SQLAlchemy, MLflow and Prefect take it."""
    return f"postgresql+{driver}://{USER}:{password}@127.0.0.1:{port}/{database}"


def make_databases(port: int, password: str, names: list[str]) -> None:
    """Make the databases that are not there yet."""
    engine = create_engine(
        url(port, password, "postgres"),
        isolation_level="AUTOCOMMIT",
        connect_args={"connect_timeout": 2},
    )
    with engine.connect() as connection:
        there = set(connection.scalars(text("SELECT datname FROM pg_database")))
        for name in names:
            if name not in there:
                connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine.dispose()
