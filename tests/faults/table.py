"""The table of the experiments at the end of a run: its rows come with the tests' reports, from whichever process ran them."""

import os
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # every run of pytest imports this module
    from tests.faults.oracle import Figures

PROPERTY = "experiment"
HEAD = (
    f"{'experiment':<46} {'faults':>6} {'accepted':>8} {'finished':>8} {'lost':>5} {'repeated':>8} "
    f"{'in flight':>9} {'stuck':>5} {'seconds':>7}"
)

# In the environment, so that the processes of pytest-xdist, which inherit it, make the same of it.
SEED = int(os.environ.get("BLOX_FAULTS_SEED") or random.SystemRandom().randrange(1_000_000))
os.environ["BLOX_FAULTS_SEED"] = str(SEED)
SCALE = float(os.environ.get("BLOX_FAULTS_SCALE") or 0.1)


def row(name: str, figures: "Figures", remark: str) -> str:
    return (
        f"{name:<46} {figures.faults:>6} {figures.accepted:>8} {figures.finished:>8} {figures.lost:>5} "
        f"{figures.repeated:>8} {figures.in_flight:>9} {figures.stuck:>5} {figures.seconds:>7.1f}  {remark}"
    )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [each for outcome in ("passed", "failed") for each in terminalreporter.stats.get(outcome, [])]
    rows = [
        text for report in reports if report.when == "call" for name, text in report.user_properties if name == PROPERTY
    ]
    if rows:
        terminalreporter.section("experiments")
        for line in [HEAD, *rows, f"seed {SEED}, scale {SCALE:g}"]:
            terminalreporter.write_line(line)
