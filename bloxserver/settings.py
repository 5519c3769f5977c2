"""Settings, all from the environment (or `.env`); `.env.example` lists every one with what it does.

With nothing set the server runs embedded: SQLite and a filesystem broker under `var/`, development sign-in on.
`DATABASE_URL` moves it to PostgreSQL, `REDIS_URL` moves the broker and the shared limits to Redis.
"""

import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
environ.Env.read_env(env.str("BLOX_ENV_FILE", default=str(BASE_DIR / ".env")))

VAR_DIR = Path(env.str("BLOX_VAR_DIR", default="") or BASE_DIR / "var")
VAR_DIR.mkdir(parents=True, exist_ok=True)

DEBUG = env.bool("DEBUG", default=False)

# Safety: what development may leave out and production must name. ------------------------------------------------
INSECURE_SECRET_KEY = "insecure-development-key-change-me-before-anyone-else-can-reach-this"
INSECURE_ENCRYPTION_KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

SECRET_KEY = env.str("SECRET_KEY", default=INSECURE_SECRET_KEY if DEBUG else "")
BLOX_ENCRYPTION_KEYS = env.list("BLOX_ENCRYPTION_KEYS", default=[INSECURE_ENCRYPTION_KEY] if DEBUG else [])
BLOX_DEV_AUTH = env.bool("BLOX_DEV_AUTH", default=False)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"] if DEBUG else [])

if not DEBUG:
    if len(SECRET_KEY) < 50 or SECRET_KEY == INSECURE_SECRET_KEY:
        raise ImproperlyConfigured("SECRET_KEY must be set to a random value of 50 characters or more.")
    if not BLOX_ENCRYPTION_KEYS or INSECURE_ENCRYPTION_KEY in BLOX_ENCRYPTION_KEYS:
        raise ImproperlyConfigured("BLOX_ENCRYPTION_KEYS must be set: one or more Fernet keys, newest first.")
    if not ALLOWED_HOSTS or "*" in ALLOWED_HOSTS:
        raise ImproperlyConfigured("ALLOWED_HOSTS must name the hosts that this server answers to, without '*'.")
    if BLOX_DEV_AUTH:
        raise ImproperlyConfigured("BLOX_DEV_AUTH lets anyone sign in as anyone: it needs DEBUG=1, so unset it here.")

# Where web listens, and where people and webhooks find it.
BLOX_HOST = env.str("BLOX_HOST", default="127.0.0.1")
PORT = env.int("PORT", default=8000)
BLOX_NUM_PROXIES = env.int("BLOX_NUM_PROXIES", default=0)  # whose X-Forwarded-For and -Proto are to be believed
BLOX_PUBLIC_URL = (env.str("BLOX_PUBLIC_URL", default="") or f"http://127.0.0.1:{PORT}").rstrip("/")

# The apps, in the order in which they may import each other. -----------------------------------------------------
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "corsheaders",
    "axes",
    "bloxserver.core",
    "accounts",
    "billing",
    "llm",
    "flows",
    "executions",
    "triggers",
]

MIDDLEWARE = [
    "bloxserver.health.ProbeMiddleware",  # first: a probe comes by address, over plain HTTP
    "bloxserver.api.middleware.ApiMiddleware",  # before all that refuses, so that every refusal is JSON
    "django.middleware.security.SecurityMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "django.middleware.common.CommonMiddleware",
    # What only pages and the API need; a webhook is called a thousand times a second.
    "bloxserver.core.pages.WhiteNoiseMiddleware",
    "bloxserver.core.pages.CSPMiddleware",
    "bloxserver.core.pages.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "bloxserver.core.pages.AuthenticationMiddleware",
    "bloxserver.core.pages.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "bloxserver.urls"
WSGI_APPLICATION = "bloxserver.wsgi.application"
APPEND_SLASH = False  # the API has no trailing slashes; the admin's own catch-all adds them there
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "bloxserver" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# Database. -------------------------------------------------------------------------------------------------------
DATABASE_URL = env.str("DATABASE_URL", default="") or f"sqlite:///{VAR_DIR / 'bloxserver.sqlite3'}"
DATABASES = {"default": env.db_url_config(DATABASE_URL)}
DATABASES["default"]["CONN_MAX_AGE"] = env.int("DATABASE_CONN_MAX_AGE", default=600)
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    DATABASES["default"].setdefault("OPTIONS", {}).update(
        {
            "transaction_mode": "IMMEDIATE",  # a writer takes its lock at BEGIN: no deadlock by upgrading a read lock
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;",
        }
    )
else:
    DATABASES["default"]["OPTIONS"] = {
        "connect_timeout": 2,  # a database that is away is an answer within seconds, not a thread that waits
        "server_side_binding": True,  # binding in Python costs more than many a statement
        "prepare_threshold": 5,  # prepared when they come for the sixth time, so parsed and planned once
        **DATABASES["default"].get("OPTIONS", {}),
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Accounts. -------------------------------------------------------------------------------------------------------
AUTH_USER_MODEL = "accounts.User"
SILENCED_SYSTEM_CHECKS = ["auth.W004"]  # e-mail is unique by a constraint over its lower case
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_USERNAME_FORM_FIELD = "username"  # the sign-in form's field, whatever the user model calls it
AXES_USERNAME_CALLABLE = "accounts.services.sign_in_name"
AXES_CLIENT_IP_CALLABLE = "bloxserver.api.throttling.client_address"
AXES_VERBOSE = False

CLERK_JWKS_URL = env.str("CLERK_JWKS_URL", default="")
CLERK_ISSUER = env.str("CLERK_ISSUER", default="")
CLERK_AUTHORIZED_PARTIES = env.list("CLERK_AUTHORIZED_PARTIES", default=[])
CLERK_SECRET_KEY = env.str("CLERK_SECRET_KEY", default="")
CLERK_API_URL = env.str("CLERK_API_URL", default="https://api.clerk.com/v1")
CLERK_WEBHOOK_SECRET = env.str("CLERK_WEBHOOK_SECRET", default="")

# Billing. Without a key its endpoints answer 503, and all else works. -----------------------------------------------
STRIPE_API_KEY = env.str("STRIPE_API_KEY", default="")
STRIPE_WEBHOOK_SECRET = env.str("STRIPE_WEBHOOK_SECRET", default="")
BLOX_BILLING_URL = env.str("BLOX_BILLING_URL", default="") or BLOX_PUBLIC_URL
STRIPE_API_BASE = env.str("STRIPE_API_BASE", default="https://api.stripe.com").rstrip("/")

# REST API. -------------------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["accounts.authentication.BearerAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["accounts.permissions.HasScope"],
    "DEFAULT_PARSER_CLASSES": ["bloxserver.api.parsers.StrictCamelCaseJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["bloxserver.api.renderers.CamelCaseRenderer"],
    "DEFAULT_PAGINATION_CLASS": "bloxserver.api.pagination.PageNumberPagination",
    "DEFAULT_THROTTLE_CLASSES": ["bloxserver.api.throttling.TierThrottle"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_METADATA_CLASS": None,
    "EXCEPTION_HANDLER": "bloxserver.api.errors.exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
    "NUM_PROXIES": BLOX_NUM_PROXIES,
    "UNAUTHENTICATED_USER": None,
}
# Keys under these belong to the user and are never rewritten, in or out.
JSON_CAMEL_CASE = {
    "JSON_UNDERSCOREIZE": {
        "ignore_fields": (
            "canvas_state",
            "config",
            "input_payload",
            "payload",
            "value",
            "input",
            "output",
            "config_schema",
            "input_schema",
            "example",
        ),
    },
}
# The callable that says how many API requests a minute a user has: billing knows the tiers, the API does not.
BLOX_API_RATE = "billing.services.api_requests_per_minute"
BLOX_ANONYMOUS_API_RATE = env.int("BLOX_ANONYMOUS_API_RATE", default=300)  # a minute and address, on public paths

CORS_ALLOWED_ORIGINS = env.list("CORS_ALLOWED_ORIGINS", default=[])
CORS_URLS_REGEX = r"^/(api|webhooks)/.*$"
CORS_EXPOSE_HEADERS = [
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "X-RateLimit-Limit-Requests",
    "X-RateLimit-Remaining-Requests",
    "X-RateLimit-Limit-Tokens",
    "X-RateLimit-Remaining-Tokens",
    "X-RateLimit-Reset-LLM",
    "Retry-After",
]

# Celery: it carries bells between machines and supervises worker processes; the truth is in the database. --------
REDIS_URL = env.str("REDIS_URL", default="")
if REDIS_URL:
    CELERY_BROKER_URL = REDIS_URL
    # A publisher waits for Redis half a second at most and tries once; a worker's own reconnecting is not governed by these.
    CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {
        "socket_timeout": 0.5,
        "socket_connect_timeout": 0.5,
        "max_retries": 0,
    }
else:
    CELERY_BROKER_URL = "filesystem://localhost"
    CELERY_BROKER_TRANSPORT = "bloxserver.core.broker:Transport"
    CELERY_BROKER_TRANSPORT_OPTIONS = {"folder": str(VAR_DIR / "broker")}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "executions"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True  # none is: acks are early. Unset, it warns each time
CELERY_DB_REUSE_MAX = 10_000  # else Celery closes the database connection after every task
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 25
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
# The mailbox of `celery inspect`: nothing here needs it, and it is one more connection to lose with Redis.
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
BLOX_RUN_NOTICES_SECONDS = 30  # between the looks for who has used 80 or 100 % of their runs
CELERY_BEAT_SCHEDULE = {
    # At whole seconds (`relative`), as the moments of schedules are: a tick just before would leave them to the next.
    "tick": {"task": "triggers.tick", "schedule": 1.0, "relative": True, "options": {"queue": "clock", "expires": 1.0}},
    "sweep": {"task": "executions.sweep", "schedule": 1.0, "options": {"queue": "clock", "expires": 1.0}},
    "keep budgets": {"task": "billing.keep_budgets", "schedule": 5.0, "options": {"queue": "clock", "expires": 5.0}},
    "work on stripe": {
        "task": "billing.work_on_stripe",
        "schedule": 15.0,
        "options": {"queue": "clock", "expires": 15.0},
    },
    # These take their time, so workers do them, not the clock.
    "review flow caps": {"task": "executions.review_flow_caps", "schedule": 15.0, "options": {"expires": 15.0}},
    "report overage": {"task": "executions.report_overage", "schedule": 300.0, "options": {"expires": 300.0}},
    "fold tallies": {"task": "executions.fold_tallies", "schedule": 15.0, "options": {"expires": 15.0}},
    "work operations": {"task": "executions.work_operations", "schedule": 10.0, "options": {"expires": 10.0}},
    "tell of refused keys": {"task": "llm.tell_of_refused_keys", "schedule": 60.0, "options": {"expires": 60.0}},
    "notice runs": {
        "task": "executions.notice_runs",
        "schedule": BLOX_RUN_NOTICES_SECONDS,
        "options": {"expires": BLOX_RUN_NOTICES_SECONDS},
    },
    "prune history": {"task": "executions.prune_history", "schedule": 10.0, "options": {"expires": 10.0}},
}
CELERY_BEAT_SCHEDULER = "celery.beat:Scheduler"  # in memory: a metronome has nothing to remember, and two may run

# What flows may do. ----------------------------------------------------------------------------------------------
BLOX_HTTP_ALLOW = env.list("BLOX_HTTP_ALLOW", default=[])
BLOX_LEASE_SECONDS = env.int("BLOX_LEASE_SECONDS", default=18)  # a dead worker's executions go on elsewhere after this
BLOX_WORKER_CONCURRENCY = env.int("BLOX_WORKER_CONCURRENCY", default=200)  # executions in one worker process
BLOX_WORKER_NICE = env.int("BLOX_WORKER_NICE", default=5)  # how far a worker stands back for web and clock, 0 to 19
BLOX_WORKER_TIERS = env.list("BLOX_WORKER_TIERS", default=[])  # the worker claims these tiers' executions alone
BLOX_WEB_PROCESSES = env.int("BLOX_WEB_PROCESSES", default=1)  # more than one needs Redis: limits are in memory else
BLOX_WEB_THREADS = env.int("BLOX_WEB_THREADS", default=32)
# How many of those threads event streams and waiting webhooks may hold.
BLOX_STREAM_LIMIT = env.int("BLOX_STREAM_LIMIT", default=16)
BLOX_METRICS_TOKEN = env.str("BLOX_METRICS_TOKEN", default="")

# Where users' own keys for a provider are used, instead of the provider's own address; also of providers that are not known.
BLOX_LLM_BASE_URLS: dict[str, str] = {
    name.strip(): url.strip()
    for name, _, url in (pair.partition("=") for pair in env.list("BLOX_LLM_BASE_URLS", default=[]))
}
# The load of a pool of models (calls waiting and under way, by what it can do at once) from which on free calls are shed
# now and then, and from which on they and pro's are always.
BLOX_LLM_DEGRADED_AT = env.float("BLOX_LLM_DEGRADED_AT", default=1.0)
BLOX_LLM_CRITICAL_AT = env.float("BLOX_LLM_CRITICAL_AT", default=2.0)

EMAIL_CONFIG = env.email_url("EMAIL_URL", default="consolemail://" if DEBUG else "smtp://localhost:25")
vars().update(EMAIL_CONFIG)
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="BloxServer <noreply@localhost>")

# HTTP hygiene. ---------------------------------------------------------------------------------------------------
WEBHOOK_MAX_BYTES = 1024 * 1024
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * WEBHOOK_MAX_BYTES  # API bodies; a webhook's own limit is checked first
USE_HTTPS = BLOX_PUBLIC_URL.startswith("https://")
SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=USE_HTTPS)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BLOX_NUM_PROXIES else None
SECURE_HSTS_SECONDS = 31_536_000 if USE_HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = USE_HTTPS
SECURE_HSTS_PRELOAD = USE_HTTPS
SESSION_COOKIE_SECURE = USE_HTTPS
CSRF_COOKIE_SECURE = USE_HTTPS
CSRF_TRUSTED_ORIGINS = [BLOX_PUBLIC_URL]
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "style-src": ["'self'", "'unsafe-inline'"],
        "script-src": ["'self'"],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
    }
}

LANGUAGE_CODE = "en-us"
FORMAT_MODULE_PATH = "bloxserver.formats"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}
warnings.filterwarnings("ignore", message="No directory at", category=UserWarning)  # whitenoise, on STATIC_ROOT
WHITENOISE_USE_FINDERS = not STATIC_ROOT.exists()  # a checkout serves the apps own files, an image has them collected

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "filters": {
        "mask_tokens": {"()": "triggers.logs.MaskTokens"},
        "brief": {"()": "bloxserver.core.logs.Brief"},
        "without_trace": {"()": "bloxserver.core.logs.WithoutTrace"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["mask_tokens"]}},
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", default="INFO")},
    "loggers": {
        "django": {"handlers": [], "level": "INFO"},  # without Django's own console, which knows no filter of ours
        "django.security.DisallowedHost": {"filters": ["without_trace"]},
        "httpx2": {"level": "WARNING"},
        "httpcore2": {"level": "WARNING"},
        # At DEBUG they log whole requests: what tenants ask their models.
        "anthropic": {"level": "WARNING"},
        "openai": {"level": "WARNING"},
        "stripe": {"level": "WARNING"},  # at DEBUG it logs what it sends and is sent
        # A line for every tick and every bell.
        "celery.beat": {"level": "WARNING", "filters": ["brief"]},
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
    },
}

SPECTACULAR_SETTINGS = {
    "TITLE": "BloxServer API",
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.1.1",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "CAMELIZE_NAMES": True,
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "Tier": "accounts.models.Tier",
        "FlowStatus": "flows.models.FlowStatus",
        "TriggerType": "executions.models.TriggerType",
        "ExecutionStatus": "executions.models.ExecutionStatus",
        "StepStatus": "executions.models.StepStatus",
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "drf_spectacular.contrib.djangorestframework_camel_case.camelize_serializer_fields",
        "triggers.openapi.add_webhooks",
        "bloxserver.api.schema.group_operations",
        "bloxserver.api.schema.add_errors",
    ],
}
