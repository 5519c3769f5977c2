from typing import Any

from django.core.management.base import BaseCommand, CommandError

from bloxserver.core.encrypted import Renewal, renew_all

SHOWN = 20  # ids of unreadable rows of one column


class Command(BaseCommand):
    help = (
        "Re-encrypts stored secrets, keys and webhook tokens under the first of BLOX_ENCRYPTION_KEYS. Run it when all "
        "processes have that key: the others can go once it says that nothing is left. Safe to run twice, and beside them."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        left, unreadable = 0, 0
        for done in renew_all():
            self._tell(done)
            left, unreadable = left + done.changed, unreadable + len(done.unreadable)
        if left or unreadable:
            raise CommandError(
                f"{left:,} values were changed meanwhile: run it again. {unreadable:,} values are under none of the keys: put "
                "the key that they were stored under back, or have them stored anew. Keep the old keys until then."
            )
        self.stdout.write("Nothing is left under an older key.")

    def _tell(self, done: Renewal) -> None:
        self.stdout.write(
            f"{done.column}: {done.renewed:,} re-encrypted, {done.current:,} under the newest key already, "
            f"{done.changed:,} changed meanwhile, {len(done.unreadable):,} unreadable"
        )
        for key in done.unreadable[:SHOWN]:
            self.stderr.write(f"  {done.column} of {key} cannot be read")
        if len(done.unreadable) > SHOWN:
            self.stderr.write(f"  and {len(done.unreadable) - SHOWN:,} more")
