"""Web: granian, which forks its processes when the application has been loaded, so that they share what it takes."""

from granian.cli import entrypoint

import bloxserver.rsgi  # noqa: F401

if __name__ == "__main__":
    entrypoint()
