import os
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from bloxserver.core.processes import COMMANDS


class Command(BaseCommand):
    help = "Becomes one of the server's processes: web, worker or clock. For containers and service managers."
    requires_system_checks = ["blox"]

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("process", choices=list(COMMANDS))

    def handle(self, *, process: str, **options: Any) -> None:
        command = COMMANDS[process]()
        os.execv(command[0], command)
