import logging

import pytest

from bloxserver.core.logs import Brief
from triggers.logs import MaskTokens

pytestmark = pytest.mark.once


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Not Found: /webhooks/%s/test", "Not Found: /webhooks/***/test"),
        ("Not Found: //webhooks//%s", "Not Found: //webhooks//***"),
        ("Not Found: /Webhook/%s?a=1", "Not Found: /Webhook/***?a=1"),
        ("Bearer blox_%s.", "Bearer ***."),
    ],
)
def test_a_token_is_masked_wherever_it_stands(text: str, shown: str) -> None:
    record = logging.LogRecord("tests", logging.INFO, "", 0, text, ("aB3-_" * 8 + "xyz",), None)
    assert MaskTokens().filter(record)
    assert record.getMessage() == shown


def test_ids_and_digests_are_not_taken_for_tokens() -> None:
    text = f"execution=0190a000-0000-7000-8000-000000000000 digest={'ab' * 32} 100% of it"
    record = logging.LogRecord("tests", logging.INFO, "", 0, text, (), None)
    assert MaskTokens().filter(record)
    assert record.getMessage() == text
