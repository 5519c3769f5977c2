"""Writes the `.env` of a first start: secrets of its own, and settings that fit one machine.

A script of the standard library alone, run before there are settings: `python first_env.py PATH`.
"""

import base64
import os
import secrets
import sys

TEMPLATE = """\
# Written by `make run`. .env.example lists every setting there is.
# Keep both secrets: without the keys nothing that was stored encrypted can be read again.
SECRET_KEY={secret_key}
BLOX_ENCRYPTION_KEYS={encryption_key}
ALLOWED_HOSTS=localhost,127.0.0.1
EMAIL_URL=consolemail://
"""


def main(path: str) -> None:
    """Makes `path`, readable by its owner alone. Raises FileExistsError rather than replace one."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(
            TEMPLATE.format(
                secret_key=secrets.token_urlsafe(50),
                encryption_key=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),  # what Fernet takes
            )
        )


if __name__ == "__main__":
    main(sys.argv[1])
