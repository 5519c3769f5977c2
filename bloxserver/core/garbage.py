"""Python's collector of cycles, in processes that serve for long.

It goes through all objects again and again, and nearly all of them are code and settings, which are never garbage: a
fifth of a worker's time went there.
"""

import gc

YOUNG = 10_000  # objects, before it looks for cycles among them


def leave_alone_what_is_loaded() -> None:
    """To be called once a process has loaded what it serves with."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)
