import io
import json
import os
import socket
import sys
import tempfile
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, connections

from bloxserver.core import supervisor
from bloxserver.core.database import missing_migrations
from bloxserver.core.processes import COMMANDS


class Command(BaseCommand):
    help = "Migrates where needed, then runs web, worker and clock in this terminal until Ctrl-C or SIGTERM."
    requires_system_checks = ["blox"]

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--demo", action="store_true", help="Make the demo account and flow, and print how to use them."
        )
        parser.add_argument(
            "--with-parent", action="store_true", help="End when the process that started this one ends."
        )

    def handle(self, *, demo: bool, with_parent: bool, **options: Any) -> None:
        check_port_is_free(settings.BLOX_HOST, settings.PORT)
        self.migrate()
        lines = ["", f"READY  {settings.BLOX_PUBLIC_URL}  (Ctrl-C ends web, worker and clock)"]
        if demo:
            text = io.StringIO()
            call_command("demo", stdout=text)
            lines += ["", text.getvalue().strip("\n")]
        lines.append("")
        connections.close_all()
        self.stdout.flush()
        become_supervisor("\n".join(lines), with_parent=with_parent)

    def migrate(self) -> None:
        try:
            missing = missing_migrations()
        except OperationalError as error:
            raise CommandError(f"The database does not answer: {str(error).strip()}") from error
        if missing:
            self.stdout.write(f"Preparing the database ({len(missing)} migrations) ...")
            call_command("migrate", verbosity=0, interactive=False)


def check_port_is_free(host: str, port: int) -> None:
    """Raises CommandError when something listens there, which would otherwise be taken for our own web process."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandError(
                f"Cannot listen on {host}:{port}: {error.strerror}. Choose another with PORT=..."
            ) from error


def become_supervisor(banner: str, *, with_parent: bool) -> None:
    """Replaces this process, Django and all, by the small supervisor. Does not return."""
    specification = {
        "commands": {name: command() for name, command in COMMANDS.items()},
        "host": {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.BLOX_HOST, settings.BLOX_HOST),  # noqa: S104
        "port": settings.PORT,
        "banner": banner,
        "with_parent": with_parent,
    }
    # By a file, not by argument: the banner holds a password and a token, and arguments are everyone's to see.
    with tempfile.TemporaryFile("w+") as file:
        json.dump(specification, file)
        file.seek(0)
        os.dup2(file.fileno(), 0)
    os.chdir(settings.BASE_DIR)
    os.execv(sys.executable, [sys.executable, "-I", supervisor.__file__])
