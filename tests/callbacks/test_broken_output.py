"""A standard output that is closed or full is no reason to lose a run."""

from __future__ import annotations

import os
import textwrap

import pytest
from warm_python import python

CODE = """
    import sys
    import leyden
    from leyden.testing import BoringModel

    trainer = leyden.Trainer(max_epochs=2, limit_train_batches=4, limit_val_batches=2, logger=False, enable_checkpointing=False)
    print(trainer.fit(BoringModel()).status, file=sys.stderr)
    if "close" in sys.argv:
        sys.stdout.close()
        print(trainer.fit(BoringModel()).status, file=sys.stderr)
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_training_goes_on_when_the_output_is_full() -> None:
    with open("/dev/full", "w") as full:
        done = python("-c", textwrap.dedent(CODE), stdout=full)
    assert "training goes on without it" in done.stderr
    assert "finished" in done.stderr
    assert done.stderr.count("cannot be drawn") == 1


def test_training_goes_on_when_the_output_is_closed() -> None:
    done = python("-c", textwrap.dedent(CODE), "close")
    assert done.stderr.count("finished") == 2, done.stderr
