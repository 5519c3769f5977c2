"""`python -m tests.stripe_server [PORT]`: prints its URL as its first line, and serves until it is ended."""

import sys
import time
from contextlib import suppress

from tests.stripe_server import StripeServer

with StripeServer(int(sys.argv[1]) if len(sys.argv) > 1 else 0) as standing:
    print(standing.url, flush=True)
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
