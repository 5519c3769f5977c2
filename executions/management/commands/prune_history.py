from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from executions import history, tally


class Command(BaseCommand):
    help = (
        "Deletes executions that are older than their owner's tier keeps them, what is left of deleted flows, and tested "
        "drafts that nothing refers to. The clock has it done bit by bit; this does all of it."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--seconds", type=float, help="Stop after so many seconds; without it, when all is done.")

    def handle(self, *args: Any, **options: Any) -> None:
        pruned = history.prune_history(now=timezone.now(), seconds=options["seconds"])
        tally.fold(seconds=options["seconds"])
        self.stdout.write(
            f"Deleted {pruned.executions:,} executions, {pruned.flows:,} flows that were waiting for theirs, and "
            f"{pruned.drafts:,} tested drafts.{'' if pruned.is_done else ' More is left.'}"
        )
