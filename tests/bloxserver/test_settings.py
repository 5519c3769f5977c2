"""The server's start, refused where a setting is missing or insecure. Each start is a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCTION = {
    "SECRET_KEY": "kB3xT9wq-Vf7Zp2Ls8Rd5Nh1Jc6Mg4Yt0Ua-Ei_Ob7Wk3Xv9Qz",
    "BLOX_ENCRYPTION_KEYS": "cGxlYXNlLW1ha2UtYS1rZXktb2YteW91ci1vd24uLi4=",
    "ALLOWED_HOSTS": "flows.example.com",
    "BLOX_PUBLIC_URL": "https://flows.example.com",
    "BLOX_NUM_PROXIES": "1",
    "BLOX_METRICS_TOKEN": "0123456789abcdef",
    "DATABASE_URL": "postgres://blox:secret@127.0.0.1:5432/blox",
    "REDIS_URL": "redis://127.0.0.1:6379/0",
}


def manage(tmp_path: Path, *arguments: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
    environment: dict[str, str] = {
        "PATH": os.environ["PATH"],
        "BLOX_ENV_FILE": os.devnull,
        "BLOX_VAR_DIR": str(tmp_path),
    }
    environment |= {name: value for name, value in (PRODUCTION | changes).items() if value is not None}
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60)


def test_the_deployment_check_finds_nothing_to_say_about_a_production_environment(tmp_path: Path) -> None:
    result = manage(tmp_path, "check", "--deploy", "--fail-level", "WARNING")
    assert (result.returncode, result.stdout) == (0, "System check identified no issues (1 silenced).\n"), result.stderr


@pytest.mark.parametrize(
    ("name", "value", "changes"),
    [
        ("SECRET_KEY", None, {}),
        ("SECRET_KEY", "short", {}),
        ("SECRET_KEY", "insecure-development-key-change-me-before-anyone-else-can-reach-this", {}),
        ("BLOX_ENCRYPTION_KEYS", None, {}),
        ("BLOX_ENCRYPTION_KEYS", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", {}),
        ("BLOX_ENCRYPTION_KEYS", "not-a-fernet-key", {}),
        ("ALLOWED_HOSTS", None, {}),
        ("ALLOWED_HOSTS", "*", {}),
        ("BLOX_DEV_AUTH", "1", {}),
        ("BLOX_PUBLIC_URL", "flows.example.com", {}),
        ("BLOX_STREAM_LIMIT", "32", {}),
        ("BLOX_HTTP_ALLOW", "127.0.0.1:1-65535", {}),
        ("BLOX_WORKER_TIERS", "gold", {}),
        ("BLOX_WEB_PROCESSES", "2", {"REDIS_URL": None}),
        ("CLERK_ISSUER", None, {"CLERK_JWKS_URL": "https://clerk.example.com/jwks", "CLERK_AUTHORIZED_PARTIES": "x"}),
        ("CLERK_AUTHORIZED_PARTIES", "", {"CLERK_JWKS_URL": "https://clerk.example.com/jwks", "CLERK_ISSUER": "x"}),
    ],
)
def test_production_refuses_to_start_and_names_the_setting(
    tmp_path: Path, name: str, value: str | None, changes: dict[str, str | None]
) -> None:
    result = manage(tmp_path, "start", "clock", **{name: value}, **changes)
    assert result.returncode != 0
    assert name in result.stderr.splitlines()[-1] + "".join(re.findall(r"\(blox\.\w+\).*", result.stderr))


def test_a_message_about_a_setting_does_not_show_its_value(tmp_path: Path) -> None:
    result = manage(tmp_path, "start", "clock", BLOX_ENCRYPTION_KEYS="a-secret-that-is-no-key")
    assert "a-secret-that-is-no-key" not in result.stdout + result.stderr


def test_the_environment_file_of_a_first_start_makes_a_server_that_starts(tmp_path: Path) -> None:
    path = tmp_path / "env"
    script = REPOSITORY / "bloxserver" / "core" / "first_env.py"
    subprocess.run([sys.executable, "-I", script, path], check=True)
    assert path.stat().st_mode & 0o077 == 0
    environment = {"PATH": os.environ["PATH"], "BLOX_ENV_FILE": str(path), "BLOX_VAR_DIR": str(tmp_path)}
    command = [sys.executable, "manage.py", "check"]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_environment_file_of_a_first_start_never_replaces_one(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("SECRET_KEY=precious\n")
    script = REPOSITORY / "bloxserver" / "core" / "first_env.py"
    assert subprocess.run([sys.executable, "-I", script, path], capture_output=True).returncode != 0
    assert path.read_text() == "SECRET_KEY=precious\n"


def test_every_setting_of_the_environment_is_in_the_example_file_with_a_line_on_what_it_does() -> None:
    source = (REPOSITORY / "bloxserver" / "settings.py").read_text()
    read = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', source))
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    settings = {match[1]: number for number, line in enumerate(lines) if (match := re.match(r"#?([A-Z_]+)=", line))}
    assert set(settings) == read
    assert [name for name, number in settings.items() if not lines[number - 1].startswith("# ")] == []


def test_every_setting_is_in_the_table_of_the_readme() -> None:
    settings = set(re.findall(r"^#?([A-Z_]+)=", (REPOSITORY / ".env.example").read_text(), re.MULTILINE))
    readme = (REPOSITORY / "README.md").read_text()
    table = readme[readme.index("## Settings") : readme.index("## To production")]
    assert set(re.findall(r"`([A-Z_]+)`", table)) == settings


def test_the_compose_file_passes_no_setting_that_the_server_does_not_read() -> None:
    import yaml

    read = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', (REPOSITORY / "bloxserver" / "settings.py").read_text()))
    services = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]
    assert set(services) == {"postgres", "redis", "migrate", "web", "worker", "clock"}
    for name in ("migrate", "web", "worker", "clock"):
        assert set(services[name]["environment"]) <= read
