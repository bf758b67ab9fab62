"""What the tests by random edits have in common: how many tries, and when one has failed."""

from __future__ import annotations

import os
import warnings

from bam_lightning.config.hydra_errors import format_error, is_user_error

TRIES = int(os.environ.get("BAM_FUZZ_TRIES", "30"))
FIRST = int(os.environ.get("BAM_FUZZ_SEED", "0"))


def outcome(call, seed) -> bool:
    """Return whether the call ran; if it did not, its error must be one of ours and say something, in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except Exception as error:
        said = format_error(error) if is_user_error(error) else ""
        if len(said) <= 10 or "\n" in said:
            raise AssertionError(f"try {seed} was not refused on purpose: {type(error).__name__}: {error}") from error
        return False
    return True
