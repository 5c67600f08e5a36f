"""A process ends after the threads in which gloo works have let go of what they hold: otherwise they abort it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import ctypes, hashlib, threading
import torch
import leyden

class Net(leyden.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 1)
    def training_step(self, batch, batch_idx):
        return self.net(batch).sum()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

trainer = leyden.Trainer(
    devices=1, strategy="ddp", accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(Net(), torch.utils.data.DataLoader(torch.ones(2, 2)))
assert torch.distributed.is_initialized()

def work():  # as one of gloo's does: longer than what is left of the process, and in need of the interpreter's lock then
    ctypes.CDLL(None).prctl(15, b"pt_gloo_runloop")
    begun.set()
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 400_000)
    print("has let go", flush=True)

begun = threading.Event()
threading.Thread(target=work, daemon=True).start()
begun.wait()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a thread does is asked of Linux")
def test_the_interpreter_waits_for_one_that_works(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout) == (0, "has let go\n"), done.stderr
