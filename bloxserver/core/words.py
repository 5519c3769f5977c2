"""Words for people: what somebody may have meant by a name that is not known, and how many of something."""

from collections.abc import Iterable

ALIKE = 60  # percent; what `difflib.get_close_matches` takes for close
LONGEST = 100  # characters of a name that are compared


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`; None when none is like it.

    Names come from tenants, thousands in one request: difflib would compare 1,000 of them with 500 in 100 seconds.
    """
    from rapidfuzz import fuzz, process  # 3 MB in each process, of which few ever meet an unknown name

    found = process.extractOne(name[:LONGEST], list(known), scorer=fuzz.ratio, score_cutoff=ALIKE)
    return None if found is None else str(found[0])


def so_many(count: int, noun: str) -> str:
    """Such as "1 flow", "1,000 flows"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
