import logging

import pytest

from bloxserver.core.logs import Brief


def test_a_failure_that_repeats_each_second_is_one_line_each_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("tests.brief")
    brief = Brief()
    logger.addFilter(brief)
    try:
        for second in range(3):
            try:
                raise OSError("refused")
            except OSError as error:
                logger.exception("Message error: %s\n%s", error, f"stack {second}")
        logger.warning("Something else.")
    finally:
        logger.removeFilter(brief)
    assert [record.getMessage() for record in caplog.records] == ["Message error: refused", "Something else."]
    assert caplog.records[0].exc_info is None
