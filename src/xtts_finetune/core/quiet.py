"""What libraries say that helps nobody."""

import logging


def quiet_bitsandbytes() -> None:
    """To be called before its import, which on some CPUs warns that a kernel is lacking that nobody here needs."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
