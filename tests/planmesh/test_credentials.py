"""The files that say who somebody is to the server."""

import stat
from pathlib import Path

import pytest

from planmesh.credentials import (
    Connection,
    Credentials,
    read_connection,
    read_credentials,
    users,
    write_connection,
    write_credentials,
)
from planmesh.errors import Unusable
from planmesh.schemas.subjects import BadToken

ADA = Credentials(server="nats://127.0.0.1:4222", user="operator-ada", password='p"\\ä')


def test_what_is_written_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    path = write_credentials(tmp_path / "credentials", ADA)

    assert read_credentials(path.parent, "operator-ada") == ADA
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert users(path.parent) == ("operator-ada",)


def test_another_server_can_be_said(tmp_path: Path) -> None:
    write_credentials(tmp_path, ADA)

    assert read_credentials(tmp_path, "operator-ada", "nats://elsewhere").server == "nats://elsewhere"


def test_a_password_is_not_shown() -> None:
    assert repr(ADA) == "Credentials(server='nats://127.0.0.1:4222', user='operator-ada')"


def test_the_connection_names_the_person_at_this_machine(tmp_path: Path) -> None:
    connection = Connection(server="nats://127.0.0.1:1", operator="operator-ada", submitter="submitter-ada")

    write_connection(tmp_path, connection)

    assert read_connection(tmp_path) == connection


def test_a_file_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"no credentials of executor: there is no .*executor\.toml\. `planmesh up`"):
        read_credentials(tmp_path, "executor")
    with pytest.raises(Unusable, match=r"`planmesh credentials operator bob` where you want one more; if it"):
        read_credentials(tmp_path, "operator-bob")
    with pytest.raises(Unusable, match=r"no connection: there is no .*connection\.toml"):
        read_connection(tmp_path)
    assert users(tmp_path / "nowhere") == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"server = 1", "is not a file that planmesh wrote: Expected `str`"),
        (b"server = 'a'", "missing required field `user`"),
        (b"server = 'a'\nuser = 'executor'\npassword = 'b'\nrole = 'c'", "unknown field `role`"),
        (b"server", "is not a file that planmesh wrote"),
        (b"\xff", "is not a file that planmesh wrote"),
        (b"server = 'a'\nuser = 'admin'\npassword = 'b'", "has the credentials of admin"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "executor.toml").write_bytes(content)

    with pytest.raises(Unusable, match=said) as caught:
        read_credentials(tmp_path, "executor")

    assert str(tmp_path / "executor.toml") in str(caught.value)


def test_a_user_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(BadToken):
        read_credentials(tmp_path / "credentials", "../executor")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("a file")

    with pytest.raises(Unusable, match=r"cannot write .*operator-ada"):
        write_credentials(tmp_path / "credentials", ADA)
