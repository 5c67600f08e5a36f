"""Whole jobs of several processes, as they are typed: make test-distributed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import kit
import pytest

import leyden
from leyden.distributed.environment import free_port

pytestmark = pytest.mark.distributed

PATHS = os.pathsep.join([str(Path(kit.__file__).parent), str(Path(leyden.__file__).parents[1])])
FIT = """
    import os, sys, torch, leyden, kit
    from leyden.testing import BoringModel, Recorder

    def main(devices=2, epochs=1, each=lambda run: None, **options):
        run = kit.trainer(Recorder(on_train_batch_end=lambda run, *_: each(run)), devices=devices, max_epochs=epochs,
                          limit_train_batches=4, limit_val_batches=0, **options)
        run.fit(BoringModel())
        print(f"rank {run.global_rank} of {run.world_size}, node {run.node_rank}, {run.global_step} steps", flush=True)
        return run
"""


def script(folder: Path, body: str, name: str = "train.py") -> Path:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(dedent(FIT) + dedent(body))
    return file


def begun(command: list[str], folder: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": PATHS, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def shown(process: subprocess.Popen[str], code: int = 0) -> str:
    try:
        out, _ = process.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        pytest.fail(f"it did not end: {out}")
    assert process.returncode == code, out
    return out


def test_the_command_is_run_again_as_it_was_typed(tmp_path: Path) -> None:
    script(
        tmp_path,
        """
        words = sys.argv[1:]
        del sys.argv[1:]
        os.makedirs("elsewhere", exist_ok=True)
        os.chdir("elsewhere")
        if __name__ == "__main__":
            run = main()
            seen = words, sys.flags.optimize, "ignore::DeprecationWarning" in sys.warnoptions, os.path.basename(os.getcwd())
            assert seen == (["a b", '--x="c"'], 1, True, "elsewhere"), seen
            assert os.environ["LOCAL_RANK"] == str(run.local_rank)
        """,
        "my train.py",
    )
    command = [sys.executable, "-O", "-W", "ignore::DeprecationWarning", "my train.py", "a b", '--x="c"']
    out = shown(begun(command, tmp_path))
    assert "rank 0 of 2" in out
    assert "rank 1 of 2" in out


def test_a_module_of_a_package(tmp_path: Path) -> None:
    script(tmp_path / "package", "if __name__ == '__main__': main(); print(__package__)", "train.py")
    (tmp_path / "package" / "__init__.py").touch()
    assert shown(begun([sys.executable, "-m", "package.train"], tmp_path)).count("package") == 2


def test_two_nodes_by_hand(tmp_path: Path) -> None:
    script(tmp_path, "main(num_nodes=2, devices=1, strategy='ddp')")
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    nodes = [begun([sys.executable, "train.py"], tmp_path, **where, NODE_RANK=str(node)) for node in range(2)]
    for number, node in enumerate(nodes):
        assert f"rank {number} of 2, node {number}, 4 steps" in shown(node)


def test_two_nodes_of_torchrun(tmp_path: Path) -> None:
    script(tmp_path, "main(devices='auto')")
    meeting = f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    options = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=7", meeting]
    command = [sys.executable, "-m", "torch.distributed.run", *options, "train.py"]
    out = "".join(shown(node) for node in [begun(command, tmp_path), begun(command, tmp_path)])
    assert "rank 0 of 2, node 0, 4 steps" in out
    assert "rank 1 of 2, node 1, 4 steps" in out


def test_torchrun_restarts(tmp_path: Path) -> None:
    script(
        tmp_path,
        """
        import time
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if os.environ["RANK"] == "1":
            time.sleep(0 if first else 3)  # a late one must not read the addresses of the first attempt

        def fail(run):
            if first and run.global_step == 2:
                raise SystemExit(3)

        main(each=fail)
        """,
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1", "train.py"]
    assert "rank 1 of 2, node 0, 4 steps" in shown(begun(command, tmp_path))


def running(word: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word in entry.read_text():
                state = (entry.parent / "stat").read_text().rpartition(")")[2].split()[0]
                found += [entry.parent.name] if state != "Z" else []
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked for in /proc")
@pytest.mark.parametrize("strategy", ["ddp", "ddp_fork"])
def test_nothing_is_left_of_a_killed_launcher(strategy: str, tmp_path: Path) -> None:
    name = f"train_{os.getpid()}_{strategy}.py"
    script(tmp_path, f"main(epochs=-1, each=lambda run: print('step', flush=True), strategy={strategy!r})", name)
    process = begun([sys.executable, name], tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if "step" in line:
            break
    assert len(running(name)) >= 2
    os.kill(process.pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while running(name) and time.monotonic() < until:
        time.sleep(0.05)
    left = running(name)
    os.killpg(process.pid, signal.SIGKILL) if left else None
    process.wait()
    process.stdout.close()
    assert not left


@pytest.mark.parametrize("strategy", ["ddp", "ddp_fork"])
def test_ctrl_c_once_reaches_all(strategy: str, tmp_path: Path) -> None:
    script(
        tmp_path,
        f"run = main(epochs=-1, each=lambda run: print('step', flush=True), strategy={strategy!r})\nprint(run.interrupted)",
    )
    process = begun([sys.executable, "train.py"], tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if "step" in line:
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out = shown(process)
    assert out.count("True") == (2 if strategy == "ddp" else 1), out


def test_a_script_without_a_guard_under_spawn(tmp_path: Path) -> None:
    script(tmp_path, "kit.trainer(devices=2, strategy='ddp_spawn').fit(BoringModel())")
    out = shown(begun([sys.executable, "train.py"], tmp_path), code=1)
    assert "if __name__ == '__main__':" in out
    assert "The new processes ended before they had anything to do" in out.splitlines()[-1]
