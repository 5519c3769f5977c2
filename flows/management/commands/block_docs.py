"""`manage.py block_docs`: the page about the blocks, from the blocks."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from flows.blocks.docs import page
from flows.blocks.registry import BUILT_IN


class Command(BaseCommand):
    help = "Prints docs/blocks.md as the blocks now are; --write stores it, --check fails when the stored one differs."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--write", action="store_true")
        parser.add_argument("--check", action="store_true")
        parser.add_argument("--path", default=str(settings.BASE_DIR / "docs" / "blocks.md"))

    def handle(self, *, write: bool, check: bool, path: str, **options: Any) -> None:
        text = page([block() for block in BUILT_IN])
        if write:
            Path(path).write_text(text)
        elif check and (not Path(path).exists() or Path(path).read_text() != text):
            raise CommandError(f"{path} is not current; run: manage.py block_docs --write")
        elif not check:
            self.stdout.write(text, ending="")
