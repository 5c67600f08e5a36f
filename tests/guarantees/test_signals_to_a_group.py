"""A signal to the whole process group (Ctrl-C in a terminal, a scheduler's SIGTERM) ends the loader's workers too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

JOB = """
    import sys
    import time
    from pathlib import Path

    import torch
    from torch.utils.data import DataLoader, Dataset

    import leyden
    from leyden.testing import BoringModel


    class Slow(Dataset):
        def __len__(self):
            return 400

        def __getitem__(self, index):
            time.sleep(0.02)
            return torch.full((32,), index / 400)


    class Telling(leyden.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            print("batch", batch_idx, flush=True)


    if __name__ == "__main__":
        trainer = leyden.Trainer(
            max_epochs=1, default_root_dir=sys.argv[1], enable_progress_bar=False, enable_model_summary=False,
            callbacks=[Telling()], accelerator="cpu", limit_val_batches=0,
        )
        result = trainer.fit(BoringModel(), DataLoader(Slow(), batch_size=4, num_workers=2))
        print("status", result.status, flush=True)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_the_run_is_saved_and_ends_as_it_should(tmp_path: Path, number: signal.Signals, code: int) -> None:
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(JOB))
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("batch 3"):
            break
    os.killpg(process.pid, number)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert list(tmp_path.rglob("last.ckpt")), errors
    if number is signal.SIGINT:
        assert "status interrupted" in rest
