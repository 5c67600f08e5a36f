"""The random state of this process: seed it, isolate it."""

import os
import random
from contextlib import AbstractContextManager

import numpy as np
import torch

from leyden.checked import check_bool
from leyden.checkpoint.random_state import preserved_random_state
from leyden.distributed.rank_zero import rank_zero_info
from leyden.errors import InvalidOption, InvalidType

SEED_VARIABLE = "PL_GLOBAL_SEED"
WORKERS_VARIABLE = "PL_SEED_WORKERS"
MOST = 2**32 - 1
"""The largest seed: numpy takes 32 bits."""


def seed_everything(seed: int | None = None, workers: bool = False, verbose: bool = True) -> int:
    """Seed python's, numpy's and PyTorch's generators, on every device; returns the seed.

    The seed is noted in the environment variable ``PL_GLOBAL_SEED``, for processes started from here; with ``seed=None``
    it is read from there, else it is 0.

    Random augmentation: what a training dataset draws from the global generators in worker processes is always seeded by the
    epoch and the batch's position in it, so the number of workers, and a resume, change nothing. With ``workers=True`` (noted
    in ``PL_SEED_WORKERS``) the same seeding serves without workers too: results then do not depend on ``num_workers`` at all,
    and in this one point differ from a plain loop's, where a dataset draws in turn with the model.

    Raises :class:`InvalidOption` for a seed that is no whole number from 0 to 4294967295.
    """
    if seed is None:
        noted = os.environ.get(SEED_VARIABLE)
        seed = 0 if noted is None else check_seed(f"the environment's {SEED_VARIABLE}", noted)
    else:
        seed = check_seed("seed", seed)
    if verbose:
        rank_zero_info(f"Seed set to {seed}")
    os.environ[SEED_VARIABLE] = str(seed)
    os.environ[WORKERS_VARIABLE] = str(int(check_bool("workers", workers)))
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # every device's generator, those not yet started included
    return seed


def check_seed(name: str, given: object) -> int:
    """``given`` as a seed; also as text. Raises :class:`InvalidOption`, and :class:`InvalidType` for other types."""
    shown, expected = given, f"a whole number from 0 to {MOST}"
    if isinstance(given, str):
        try:
            given = int(given)
        except ValueError as error:
            raise InvalidOption(name, shown, expected) from error
    elif isinstance(given, np.integer) or (isinstance(given, float) and given.is_integer()):
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int):
        raise InvalidType(name, shown, expected)
    if not 0 <= given <= MOST:
        raise InvalidOption(name, shown, expected)
    return given


def reset_seed(verbose: bool = True) -> None:
    """Seed again with what :func:`seed_everything` was last given; nothing where it was never called."""
    if SEED_VARIABLE in os.environ:
        seed_everything(None, workers=os.environ.get(WORKERS_VARIABLE, "0") == "1", verbose=verbose)


def isolate_rng(include_cuda: bool = True) -> AbstractContextManager[None]:
    """Whatever is drawn or seeded within leaves the random state as it was."""
    return preserved_random_state(devices=include_cuda)
