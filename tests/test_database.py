"""URLs of databases and what is told of them; a server is asked in test_postgres.py."""

import pytest

from bench import database
from bench.database import DatabaseError, public, resolved, without_password
from bench.storage import Storage


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgres://me:p%40ss@host/db", "postgres://me:***@host/db"),
        ("mysql+pymysql://me:a@b/c:d@host/db", "mysql+pymysql://me:***@host/db"),
        ("postgresql://:secret@host/db", "postgresql://:***@host/db"),
        (
            "postgresql://host/db?user=me&password=secret",
            "postgresql://host/db?user=me&password=***",
        ),
        (
            "postgresql://host/db?sslpassword=secret&sslmode=require",
            "postgresql://host/db?sslpassword=***&sslmode=require",
        ),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("sqlite:////home/me/studies.db", "sqlite:////home/me/studies.db"),
    ],
)
def test_a_url_is_shown_without_its_password(url, shown):
    assert public(url) == shown


@pytest.mark.parametrize("secret", ["open/sesame", "p@ss", "a b%"])
def test_a_password_is_taken_out_of_a_message_in_any_spelling(secret):
    from urllib.parse import quote

    url = f"postgres://me:{quote(secret, safe='')}@host/db"
    told = f"{url} and {resolved(url)}: user 'me', password '{secret}' ({quote(secret, safe='')})"
    found = without_password(told, url)
    assert secret not in found
    assert quote(secret, safe="") not in found
    assert found.startswith("postgres://me:***@host/db and postgresql+psycopg2://me:***@host/db")


def test_the_driver_is_named_where_the_url_leaves_it_open():
    assert resolved("postgres://h/db") == resolved("postgresql://h/db")
    assert resolved("postgresql://h/db") == "postgresql+psycopg2://h/db"
    for url in ("postgresql+psycopg://h/db", "sqlite:///x.db", "mysql://h/db"):
        assert resolved(url) == url


def test_one_driver_at_a_time_has_a_study_of_a_sqlite_file(tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    one, two = Storage(url), Storage(url)
    one.of("a", tmp_path)
    with pytest.raises(DatabaseError, match=r"the study a in sqlite.* by another process"):
        two.of("a", tmp_path)
    two.of("b", tmp_path)
    one.__exit__()
    two.of("a", tmp_path)
    two.__exit__()
    memory = Storage("sqlite://")
    assert memory.of("a", tmp_path) is not None
    memory.__exit__()


def test_postgresql_is_told_from_others():
    for url in ("postgres://h/db", "postgresql://h/db", "postgresql+psycopg://h/db"):
        assert database.is_postgres(url)
    assert not any(map(database.is_postgres, ("sqlite:///postgres.db", "mysql://h/postgresql")))


def test_the_options_of_a_url_stay_beside_ours():
    found = database.settings("postgresql://h/db?options=-c%20work_mem%3D1MB", "-c geqo=off")
    assert found["options"].startswith("-c work_mem=1MB -c tcp_keepalives_idle=60")
    assert found["options"].endswith("-c geqo=off")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "the storage is empty; give the URL of a database, or leave it out"),
        ("studies", "the storage studies cannot be used"),
        ("postgresql://me:sesame@host:port/db", "'port'; correct the port in the URL"),
        ("postgresql://me:ses[ame@host/db", r"me:\*\*\*@host/db cannot be used: Invalid IPv6 URL"),
    ],
)
def test_a_url_that_is_none_is_refused_in_one_sentence(url, why):
    pytest.importorskip("psycopg2")
    with pytest.raises(DatabaseError, match=why) as error:
        Storage(url)
    assert "ame@" not in str(error.value)
    assert "\n" not in str(error.value)
