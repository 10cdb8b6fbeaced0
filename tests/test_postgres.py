"""Studies and runs in PostgreSQL: a throw-away server on this machine, skipped where there is none.

initdb refuses root; there the server is that of the user `postgres`.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from urllib.parse import quote

import pytest

from bench import database, tune
from bench.database import DatabaseError
from bench.results import Store
from bench.storage import Storage
from bench.track_study import TUNING, StudyTracker, TrackingError, needs_tracking
from tests.studies import make_study, make_trial, write_rows, write_studies
from tests.test_tune import Instant, asked, hunt, trials

PASSWORD = "open sesame/@%"
NO_DRIVER = "needs psycopg2: pip install -e '.[postgres]'"
NO_SERVER = "needs PostgreSQL's initdb and pg_ctl: apt-get install postgresql"


def program(name):
    """The newest of this name; Debian keeps them out of $PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=version)
    return shutil.which(name) or (str(found[-1]) if found else None)


def version(path):
    return [int(part) for part in path.parts[-3].split(".") if part.isdigit()]


class Server:
    """A cluster in a folder of its own, without any care for its durability."""

    def __init__(self, folder):
        self.folder, self.made = folder, 0
        self.user = {}
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            self.user = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(folder, "postgres", "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        secret = folder / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self.call("initdb", "-U", "me", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync")
        self.call("pg_ctl", "start", "-w", "-l", str(folder / "log"), "-o", self.options)

    @property
    def options(self):
        return f"-F -p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"

    def call(self, name, *arguments):
        command = [program(name), "-D", str(self.folder / "data"), *arguments]
        files = {"stdin": subprocess.DEVNULL, "cwd": self.folder}
        with (self.folder / "said").open("w+") as said:  # no pipe: a server would hold it open
            done = subprocess.run(
                command, stdout=said, stderr=said, timeout=60, **files, **self.user
            )
            said.seek(0)
            assert done.returncode == 0, said.read()

    def url(self, name="postgres", *, password=PASSWORD, query=""):
        return f"postgresql://me:{quote(password, safe='')}@127.0.0.1:{self.port}/{name}{query}"

    def create(self):
        """The URL of a new database."""
        self.made += 1
        self.ask(f"CREATE DATABASE new{self.made} TEMPLATE template0")
        return self.url(f"new{self.made}")

    def ask(self, query):
        with contextlib.closing(database.connect(self.url())) as connection:
            return connection.exec_driver_sql(query)


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("psycopg2", reason=NO_DRIVER)
    if not (program("initdb") and program("pg_ctl")):
        pytest.skip(NO_SERVER)
    with tempfile.TemporaryDirectory(prefix="gkd") as folder:  # short: a socket lies in it
        found = Server(Path(folder))
        yield found
        found.call("pg_ctl", "stop", "-m", "immediate")


@pytest.fixture
def url(server):
    return server.create()


@pytest.fixture
def instant(monkeypatch):
    kind = type("Fresh", (Instant,), {"answered": []})
    monkeypatch.setattr(tune.engines, "open_engine", kind)
    return kind


def few(**search):
    return asked(**{"trials": 8, **search})


def timeless(records):
    """Trials but for when they ran."""
    return [{k: v for k, v in r.items() if k not in ("started", "ended")} for r in records]


# ---- studies --------------------------------------------------------------------------------


def test_a_database_gives_the_trials_of_a_journal(tmp_path, instant, url):
    sweep = few(pruner="median")
    here = trials(hunt(tmp_path / "journal", sweep))
    there = trials(hunt(tmp_path / "database", sweep, storage=url))
    assert len(here) == 8
    assert timeless(here) == timeless(there)
    assert not list((tmp_path / "database").rglob("journal.log"))


KILLED = """
import os, signal, sys
from bench import tune
from tests.test_postgres import few
from tests.test_tune import Instant, hunt

class Dying(Instant):
    answered = []
    def answer(self, cell, decide):
        if len(self.answered) == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(cell, decide)

tune.engines.open_engine = Dying
hunt(sys.argv[1], few(), storage=sys.argv[2])
"""


def test_a_killed_driver_is_followed_by_one_that_counts_nothing_twice(tmp_path, instant, url):
    whole = trials(hunt(tmp_path / "whole", few()))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "one"), url, "14"]
    assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL
    outcome = hunt(tmp_path / "two", few(), storage=url)  # on another machine, say
    assert 0 < outcome.trials < 8  # those that the first one told are there
    assert timeless(trials(outcome)) == timeless(whole)
    again = hunt(tmp_path / "three", few(), storage=url)
    assert again.trials == 0
    assert timeless(trials(again)) == timeless(whole)


def test_of_two_drivers_of_a_study_one_is_told_to_wait(tmp_path, instant, monkeypatch, url):
    begun, go_on, first = threading.Event(), threading.Event(), []
    answer = instant.answer

    def slow(self, cell, decide):
        begun.set()
        assert go_on.wait(60)
        return answer(self, cell, decide)

    monkeypatch.setattr(instant, "answer", slow)
    one = threading.Thread(target=lambda: first.append(hunt(tmp_path / "one", few(), storage=url)))
    one.start()
    assert begun.wait(60)
    with pytest.raises(DatabaseError, match="is being tuned by another process; wait for it"):
        hunt(tmp_path / "two", few(), storage=url)
    go_on.set()
    one.join()
    second = hunt(tmp_path / "two", few(), storage=url)
    assert second.trials == 0
    assert trials(second) == trials(first[0])


def test_drivers_of_several_sweeps_may_open_an_empty_database_at_once(url):
    found, start = [], threading.Barrier(4)

    def opened():
        start.wait()
        with Storage(url) as storage:
            found.append(storage)

    threads = [threading.Thread(target=opened) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4


def test_a_server_that_goes_away_is_told_and_the_search_goes_on_later(
    tmp_path,
    instant,
    monkeypatch,
    server,
    url,
):
    answer, end = instant.answer, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"

    def ending(self, cell, decide):
        if len(self.answered) == 14:
            server.ask(f"{end} WHERE datname = '{url.rpartition('/')[2]}'")
        return answer(self, cell, decide)

    with monkeypatch.context() as patch:
        patch.setattr(instant, "answer", ending)
        with pytest.raises(DatabaseError, match=r"connection.*what is finished is kept"):
            hunt(tmp_path / "one", few(), storage=url)
    instant.answered.clear()
    assert timeless(trials(hunt(tmp_path / "one", few(), storage=url))) == timeless(
        trials(hunt(tmp_path / "whole", few()))
    )


# ---- runs -----------------------------------------------------------------------------------


def test_runs_in_a_database_can_be_read_back(tmp_path, url):
    store = Store(tmp_path / "results")
    found = [make_trial(0, [0.8, 0.7]), make_trial(1, [0.9, 0.8], 0.02)]
    study = make_study([*found, make_trial(2, [], state="failed", reason="seed 1000 diverged")])
    write_rows(store, study)
    write_studies(store.root, [study])
    tracker = StudyTracker(store, url)
    assert tracker.log_trials("hunt", [study]) == 3
    tracker.finish_studies("hunt", [study])
    assert needs_tracking(store, "hunt", url) == []
    experiment = tracker.client.get_experiment_by_name("hunt" + TUNING)
    runs = tracker.client.search_runs([experiment.experiment_id])
    assert len(runs) == 1 + 3 + 1 + 2  # the study, its trials, the teachers' group and they
    by_trial = {run.data.tags.get("gkdbench.trial"): run for run in runs}
    assert by_trial["1"].data.metrics["val_accuracy_mean"] == pytest.approx(0.85)
    assert by_trial["1"].data.params["student.lr"] == "0.02"
    assert by_trial["2"].info.status == "FAILED"
    curve = tracker.client.get_metric_history(by_trial["1"].info.run_id, "history/val_accuracy")
    assert max(point.value for point in curve) == pytest.approx(0.9 * 49 / 50)
    hidden_in_no_file(tmp_path)
    with pytest.raises(DatabaseError, match="holds MLflow's runs; studies and runs need one each"):
        Storage(url)
    again = StudyTracker(store, url)  # a larger budget would go on here
    assert again.log_trials("hunt", [study]) == 0


def test_runs_do_not_fit_into_a_database_of_studies(tmp_path, url):
    Storage(url).__exit__()
    with pytest.raises(TrackingError, match="holds Optuna's studies"):
        StudyTracker(Store(tmp_path), url)


# ---- what is missing, and the password ------------------------------------------------------


def both(url, folder):
    """What is said of a database that cannot be used, of studies and of runs."""
    with pytest.raises(DatabaseError) as one:
        Storage(url)
    with pytest.raises(TrackingError) as other:
        StudyTracker(Store(folder), url)
    assert url not in str(one.value) + str(other.value)
    assert one.value.__cause__ is None  # a traceback would show it
    return str(one.value), str(other.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"password": "a wrong @one"}, "password authentication failed .*PGPASSWORD"),
        ({"name": "nowhere"}, 'database "nowhere" does not exist; make it with `createdb`'),
        ({"query": "?port=1"}, "Connection refused.*start the server, or correct the URL"),
        ({"query": "?host=/nowhere"}, "No such file or directory; start the server"),
    ],
)
def test_what_is_wrong_with_a_database_is_one_sentence(tmp_path, server, change, why):
    secret = change.get("password", PASSWORD)
    for text in both(server.url(**change), tmp_path):
        assert secret not in text
        assert quote(secret, safe="") not in text
        assert "\n" not in text
        assert f"postgresql://me:***@127.0.0.1:{server.port}/" in text
        assert re.search(why, text), text


def test_a_missing_driver_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    for text in both("postgres://me:sesame@localhost/db", tmp_path):
        assert "psycopg2 is not installed; pip install -e '.[postgres]'" in text
        assert "sesame" not in text


def hidden_in_no_file(folder):
    spellings = [PASSWORD.encode(), quote(PASSWORD, safe="").encode()]
    for path in folder.rglob("*"):
        if path.is_file():
            assert not any(s in path.read_bytes() for s in spellings), path


def test_no_file_has_the_password(tmp_path, instant, url, capfd):
    hunt(tmp_path, few(trials=4), storage=url)
    assert len(list(tmp_path.rglob("*.*"))) > 3
    hidden_in_no_file(tmp_path)
    assert PASSWORD not in "".join(capfd.readouterr())
