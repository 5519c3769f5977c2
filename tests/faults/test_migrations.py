"""E21: migrations run while the server works, and the code of the release before works on the schema that they leave.

Four things are held. Each migration after `BASE` consists of operations of a few kinds (a test that needs no server).
Under load, code does not notice what such operations do to tables that it does not expect to change: every table gets
columns that the code does not know. The newest migrations that only make indexes are undone and done under load. And the
code of the release before, taken from git, is replaced by this one under load: a worker and a clock that come too early
wait for the migrations, these are run while the old code works, and a worker goes back to the old code for a while.

Not held: what a migration of another kind would do (the first test refuses it, and its author has to say here why it is
safe), and a release before that needed other packages: its code runs with those of this one.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.db import migrations
from django.db.migrations.loader import MigrationLoader

from bloxserver.core.online import AddCheckOnline, AddIndexOnline
from tests.faults.conftest import Begin
from tests.faults.experiment import Experiment, full_form_only, scaled
from tests.faults.flows import mixed
from tests.faults.processes import REPOSITORY
from tests.faults.server import Server
from tests.waiting import wait_until

# The last migrations that were made before any was run under load.
BASE = {"accounts": "0001", "billing": "0001", "executions": "0006", "flows": "0003", "triggers": "0003"}
ONLINE = (AddIndexOnline, AddCheckOnline)
FREE = (migrations.CreateModel, *ONLINE, migrations.AlterModelOptions)
# Of a field's options those that are not the database's business.
WORDS = {"help_text", "verbose_name", "choices", "blank", "editable", "validators", "error_messages", "related_name"}

RUNNING = ("web", "worker-1", "worker-2", "clock")

Key = tuple[str, str]  # app, migration
LOADER = MigrationLoader(None)
SINCE_BASE = [key for key in sorted(LOADER.graph.nodes) if key[0] in BASE and key[1][:4] > BASE[key[0]]]


def noticed(key: Key) -> Iterator[str]:
    """What code that does not know this migration, or who writes at that moment, would notice of it."""
    migration: Any = LOADER.graph.nodes[key]
    models = LOADER.project_state(key, at_end=False).models
    made = {operation.name_lower for operation in migration.operations if isinstance(operation, migrations.CreateModel)}
    for operation in migration.operations:
        model = getattr(operation, "model_name_lower", "")
        if isinstance(operation, FREE) or model in made:
            continue
        if isinstance(operation, migrations.AddField):
            if not (operation.field.null or operation.field.has_db_default()):
                yield f"{operation.describe()}: code that does not know it gives no value; make it null, or give db_default"
        elif isinstance(operation, migrations.AlterField):
            if stored(operation.field) != stored(models[key[0], model].fields[operation.name]):
                yield f"{operation.describe()}: it changes the column"
        else:
            yield f"{operation.describe()}: not known to be safe while others write"
    if migration.atomic and any(isinstance(operation, ONLINE) for operation in migration.operations):
        yield "what is done online needs atomic = False"


def stored(field: Any) -> tuple[Any, ...]:
    _, path, positional, options = field.deconstruct()
    return path, positional, {name: value for name, value in options.items() if name not in WORDS}


@pytest.mark.parametrize("key", SINCE_BASE, ids="_".join)
def test_code_that_does_not_know_a_migration_does_not_notice_it(key: Key) -> None:
    assert list(noticed(key)) == []


def some_load(trial: Experiment) -> Any:
    return trial.load(mixed(trial.tenant(), trial.server.world.url), rate=20)


@pytest.mark.experiment
def test_e21_columns_come_that_the_code_does_not_know(begin: Begin, server: Server) -> None:
    ours = [model for model in apps.get_models() if model._meta.app_label in BASE]
    tables = sorted({model._meta.db_table for model in ours})  # proxies share one
    with begin("E21 unknown columns") as trial:
        with some_load(trial) as load:
            for table in tables:
                server.postgres.execute(
                    f"ALTER TABLE {table} ADD COLUMN faults_null text NULL,"
                    f" ADD COLUMN faults_default integer NOT NULL DEFAULT 1"
                )
            done = len(load.accepted())
            wait_until(lambda: len(load.accepted()) >= done + scaled(400, least=60))
        trial.settle()
        for table in tables:
            server.postgres.execute(f"ALTER TABLE {table} DROP COLUMN faults_null, DROP COLUMN faults_default")
        trial.remarks.append(f"{len(tables)} tables")


def indexes_alone() -> dict[str, str]:
    """By app the migration after which nothing but indexes were made; without those apps where that is the newest."""
    found = {}
    for app in BASE:
        names = [name for migrated, name in sorted(LOADER.graph.nodes) if migrated == app]
        newest = names[-1]
        while all(isinstance(made, AddIndexOnline) for made in LOADER.graph.nodes[app, names[-1]].operations):
            names.pop()
        if names[-1] != newest:
            found[app] = names[-1]
    return found


@full_form_only  # half a minute
@pytest.mark.experiment
def test_e21_indexes_are_made_under_load(begin: Begin, server: Server) -> None:
    if not (before := indexes_alone()):
        pytest.skip("The newest migrations make no indexes.")
    with begin("E21 indexes") as trial, some_load(trial) as load:
        for app, name in before.items():
            server.run("manage.py", "migrate", "--verbosity=0", app, name)
            server.run("manage.py", "migrate", "--verbosity=0", app)
        wait_until(lambda: len(load.accepted()) >= scaled(400, least=60))
        trial.remarks.append(", ".join(before))


def git(*arguments: str) -> bytes:
    """What git says of this checkout; the test is skipped where it has nothing to say."""
    try:
        return subprocess.run(["git", *arguments], cwd=REPOSITORY, check=True, capture_output=True).stdout
    except FileNotFoundError:
        pytest.skip("git is not installed: no code of the release before.")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"No code of the release before in this checkout: {error.stderr.decode().strip()}")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The code of the release before: what was there when the newest migration was not."""
    migrations = "*/migrations/0*.py"
    if changed := git("status", "--porcelain", "--", migrations):
        pytest.skip(f"A migration is not committed, so what is the release before? {changed.decode().strip()}")
    newest = git("log", "-1", "--diff-filter=A", "--format=%H", "--", migrations).decode().strip()
    subprocess.run(["tar", "-xC", tmp_path], input=git("archive", f"{newest}^"), check=True)
    return tmp_path


@contextmanager
def schema_of(old: Path, server: Server) -> Iterator[list[str]]:
    """Takes the database back to what `old` knows, while nothing runs; gives the migrations undone, as `app.name`."""
    for name in list(server.processes):
        server.drop(name)
    undone = []
    try:
        for app in BASE:
            names = [path.stem for path in sorted((old / app / "migrations").glob("0*.py"))]
            newer = [name for migrated, name in sorted(LOADER.graph.nodes) if migrated == app and name not in names]
            if newer:
                server.run("manage.py", "migrate", "--verbosity=0", app, names[-1])
                undone += [f"{app}.{name}" for name in newer]
        yield undone
    finally:
        server.run("manage.py", "migrate", "--verbosity=0")


def replace(trial: Experiment, *names: str, code: Path = REPOSITORY) -> None:
    """Ends these processes as an operator would, and starts them with other code, one after another."""
    for name in names:
        # Callers have no other web to turn to. What a worker hands back is no fault that would excuse a repetition.
        with trial.fault("web", "replaced") if name == "web" else nullcontext():
            assert trial.server.end(name) == 0
            trial.server.start(name, code=code)
            trial.server.ready()


@full_form_only
@pytest.mark.experiment
def test_e21_a_roll_out_from_the_release_before(old: Path, begin: Begin, server: Server) -> None:
    with schema_of(old, server) as undone, begin("E21 roll-out") as trial:
        for name in RUNNING:
            server.start(name, code=old)
        server.ready()
        with some_load(trial) as load:
            trial.let_work(scaled(200, least=10))
            early = [server.start(name) for name in ("worker-3", "clock-3")]
            wait_until(lambda: all(undone[0] in process.output() for process in early))
            trial.let_work(scaled(200, least=10))
            assert [len(process.group()) for process in early] == [1, 1]  # they wait, and do nothing

            server.run("manage.py", "migrate", "--verbosity=0")
            server.ready()  # those that waited too
            trial.let_work(scaled(200, least=10))
            trial.kill("worker-1")
            trial.let_work(scaled(200, least=10))

            replace(trial, *RUNNING)
            replace(trial, "worker-1", code=old)
            trial.let_work(scaled(200, least=10))
            replace(trial, "worker-1")
            wait_until(lambda: len(load.accepted()) >= scaled(800, least=60))
        trial.remark(", ".join(undone))
