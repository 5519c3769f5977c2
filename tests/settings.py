"""The settings of the test suite: the server's own, with the environment that a test run has.

`BLOX_TEST_DATABASE_URL` and `BLOX_TEST_REDIS_URL` move the suite to PostgreSQL and Redis. Each pytest-xdist worker has
a folder, a database and a Redis database number of its own.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from tests.services import redis_url_of_worker

_worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if "BLOX_VAR_DIR" not in os.environ:
    os.environ["BLOX_VAR_DIR"] = tempfile.mkdtemp(prefix="bloxserver-test-")
    atexit.register(shutil.rmtree, os.environ["BLOX_VAR_DIR"], ignore_errors=True)
_var = Path(os.environ["BLOX_VAR_DIR"])
if _worker and _var.name != _worker:
    _var = _var / _worker
os.environ.update(
    {
        "BLOX_VAR_DIR": str(_var),
        "BLOX_ENV_FILE": os.devnull,  # a developer's .env is not the tests' business
        "DEBUG": "1",
        "BLOX_DEV_AUTH": "1",
        "ALLOWED_HOSTS": "testserver,localhost,127.0.0.1",
        "DATABASE_URL": os.environ.get("BLOX_TEST_DATABASE_URL") or f"sqlite:///{_var}/bloxserver.sqlite3",
        "REDIS_URL": redis_url_of_worker(os.environ.get("BLOX_TEST_REDIS_URL", ""), _worker),
        "EMAIL_URL": "memorymail://",
        "STRIPE_API_KEY": "",
        "STRIPE_WEBHOOK_SECRET": "",
        "STRIPE_API_BASE": "http://127.0.0.1:9",
        # No test asks a provider on the internet by mistake: nothing listens there.
        "BLOX_LLM_BASE_URLS": ",".join(
            f"{name}=http://127.0.0.1:9" for name in ("anthropic", "openai", "together", "xai")
        ),
    }
)

from bloxserver.settings import *  # noqa: E402, F403
from bloxserver.settings import DATABASES  # noqa: E402

DEBUG = False  # errors are answered as in production
WHITENOISE_AUTOREFRESH = True  # else every test client looks at all static files first
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file, not memory: the engine's threads have connections of their own.
    DATABASES["default"]["TEST"] = {"NAME": f"{_var}/test.sqlite3"}
else:
    DATABASES["default"]["ENGINE"] = "tests.postgresql"
