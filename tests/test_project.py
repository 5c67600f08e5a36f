"""The house itself: its public names, what importing it loads and changes, and its rules that no linter knows."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any, Literal, get_type_hints

import grimp
import pytest
from kit import in_a_fresh_process
from packaging.version import Version
from public_names import public_classes

import leyden
from leyden.version import LIGHTNING

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
FILES = sorted((SOURCE / "leyden").rglob("*.py"))
FACES = sorted(file for file in FILES if file.name == "__init__.py" and "__all__" in file.read_text())
HEAVY = [
    "jsonargparse",
    "matplotlib",
    "mlflow",
    "pandas",
    "rich",
    "scipy",
    "sklearn",
    "tensorboard",
    "torch.utils.tensorboard",
    "torchdata",
    "torchmetrics",
    "torchvision",
    "tqdm",
    "wandb",
    "yaml",
]


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


# Public names


@pytest.mark.parametrize("file", FACES, ids=module_name)
def test_all_is_complete_and_in_order(file: Path) -> None:
    face = importlib.import_module(module_name(file))
    names: list[str] = face.__all__
    assert handed_on(file) <= set(names)
    assert [name for name in names if not hasattr(face, name)] == []
    assert names == sorted(set(names), key=constants_classes_functions)


def handed_on(face: Path) -> set[str]:
    """What a face imports from files of ours, at once or lazily (named under TYPE_CHECKING), but for errors it raises."""
    tree = ast.parse(face.read_text())
    body = [*tree.body, *(node for block in tree.body if isinstance(block, ast.If) for node in block.body)]
    imports = [node for node in body if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("leyden.")]
    own = ("leyden.errors", "leyden.former_addresses", "leyden.not_offered")  # what it raises, or answers with
    return {alias.asname or alias.name for node in imports if node.module not in own for alias in node.names}


def constants_classes_functions(name: str) -> tuple[int, str]:
    """The order that ruff (RUF022) keeps in ``__all__``."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2), name


def test_the_names_of_the_tutorial_are_there() -> None:
    assert {"Callback", "LightningDataModule", "LightningModule", "Trainer", "seed_everything"} <= set(leyden.__all__)


def test_dir_shows_every_public_name() -> None:
    assert set(leyden.__all__) <= set(dir(leyden))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Trainr"):
        leyden.Trainr  # noqa: B018


# Version and metadata


def test_the_version_is_the_distribution_s() -> None:
    assert leyden.__version__ == version("leyden")
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", leyden.__version__)


def test_a_program_that_asks_for_the_version_takes_the_branch_of_today_s_lightning() -> None:
    assert Version(leyden.__version__) >= Version("2.6")
    assert Version(leyden.__version__).release[:2] == Version(LIGHTNING).release[:2]


def test_the_changelog_tells_of_this_version() -> None:
    assert f"## {leyden.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_core_needs_few_packages() -> None:
    core = {re.split(r"[^\w-]", line)[0] for line in requires("leyden") or [] if "extra ==" not in line}
    assert core == {"torch", "numpy", "fsspec", "rich", "packaging"}


def test_constraints_pin_everything_exactly() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+(; python_version (<|>=) \"3\.11\")?", line) for line in lines)
    assert "torch==2.13.0" in lines


# What importing leyden loads and changes


def test_importing_loads_nothing_heavy() -> None:
    program = "import torch, sys; before = set(sys.modules); import leyden; print(*set(sys.modules) - before)"
    loaded = in_a_fresh_process(program).split()
    assert [name for name in HEAVY if name in loaded] == []


def test_importing_changes_nothing() -> None:
    program = """
        import logging, os, random, signal, sys, warnings, numpy, torch
        def state():
            return [
                list(warnings.filters), list(logging.root.handlers), logging.root.level, logging.root.manager.disable,
                dict(os.environ), os.getcwd(), sys.excepthook, list(sys.path), list(sys.meta_path),
                random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist(), torch.get_num_threads(),
                torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled(),
                [signal.getsignal(number) for number in signal.valid_signals()],
            ]
        before = state()
        import leyden
        for number, (was, now) in enumerate(zip(before, state())):
            if was != now:
                print("changed", number)
    """
    assert in_a_fresh_process(program) == ""


def test_the_package_under_test_is_this_one() -> None:
    assert Path(leyden.__file__).is_relative_to(SOURCE)


# Rules of the house


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_a_file_opens_with_one_sentence(file: Path) -> None:
    told = ast.get_docstring(ast.parse(file.read_text()))
    assert told, f"{file} does not say what it is for"
    assert told.splitlines()[0].rstrip().endswith((".", ":")), f"{file} opens with {told.splitlines()[0]!r}"


@pytest.mark.parametrize("file", [file for file in FILES if file not in FACES], ids=module_name)
def test_inside_the_house_one_imports_from_the_file(file: Path) -> None:
    faces, files = {module_name(face) for face in FACES}, {module_name(other) for other in FILES}
    imports = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    taken = [(node.module, alias.name) for node in imports if node.module in faces for alias in node.names]
    assert [f"from {face} import {name}" for face, name in taken if f"{face}.{name}" not in files] == []


TYPES_OF_HOOKS = {
    ("leyden.callback", "leyden.trainer.trainer"),
    ("leyden.module", "leyden.trainer.trainer"),
    ("leyden.datamodule", "leyden.trainer.trainer"),
    ("leyden.callback", "leyden.module"),
}
"""What hooks are given, named under TYPE_CHECKING: the only arrows that close a circle."""


def test_files_do_not_need_each_other() -> None:
    graph = grimp.build_graph("leyden", cache_dir=None)
    arrows = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    for importer, imported in TYPES_OF_HOOKS:
        assert imported in arrows[importer], f"{importer} -> {imported} is no longer an exception: take it out"
        arrows[importer].remove(imported)
    assert circles(arrows) == []


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of files of which each needs every other: the strongly connected components with more than one member."""
    order: list[str] = []
    seen: set[str] = set()

    def leave(name: str, towards: dict[str, set[str]], left: list[str]) -> None:
        seen.add(name)
        for other in sorted(towards[name] - seen):
            if other not in seen:
                leave(other, towards, left)
        left.append(name)

    for name in sorted(arrows):
        if name not in seen:
            leave(name, arrows, order)
    backwards: dict[str, set[str]] = {name: {other for other in arrows if name in arrows[other]} for name in arrows}
    seen.clear()
    found = []
    for name in reversed(order):
        if name not in seen:
            group: list[str] = []
            leave(name, backwards, group)
            found.append(sorted(group))
    return [group for group in found if len(group) > 1]


def test_no_room_is_called_by_a_name_that_says_nothing() -> None:
    vague = ("helper", "manager", "connector", "utils", "handler", "misc", "common")
    ours = [name for name in map(module_name, FILES) if not name.startswith("leyden.utilities.")]  # Lightning's addresses
    assert [name for name in ours if any(word in name for word in vague)] == []


def test_the_house_warns_at_the_users_line_only() -> None:
    """``errors.warn_user``, and what stands on it; ``rank_zero_warn`` and its like point where users' own code says."""
    free = {"leyden.errors", "leyden.distributed.rank_zero"}
    calls = re.compile(r"\b(warnings\.warn(_explicit)?|rank_zero_warn|rank_zero_deprecation)\(")
    files = [file for file in FILES if module_name(file) not in free]
    lines = [(file, number, line) for file in files for number, line in enumerate(file.read_text().splitlines(), 1)]
    assert [f"{module_name(file)}:{number}" for file, number, line in lines if calls.search(line)] == []


def test_an_ignored_type_error_has_a_reason() -> None:
    bare = re.compile(r"#\s*type:\s*ignore(?!\[[\w, -]+\]\s*#?\s*[^\s#])")
    lines = [(file, number, line) for file in FILES for number, line in enumerate(file.read_text().splitlines(), 1)]
    assert [f"{module_name(file)}:{number}" for file, number, line in lines if bare.search(line)] == []


# Annotations


@pytest.mark.parametrize("cls", list(public_classes()), ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_annotations_of_what_is_public_are_types(cls: type) -> None:
    for name in dir(cls):
        static = inspect.getattr_static(cls, name)
        function = static.fget if isinstance(static, property) else getattr(static, "__func__", static)
        if (name.startswith("_") and name != "__init__") or not inspect.isfunction(function):
            continue
        if not function.__module__.startswith("leyden."):
            continue
        get_type_hints(function)
        if not isinstance(static, property):
            said = inspect.signature(function)
            annotations = [each.annotation for each in said.parameters.values()] + [said.return_annotation]
            assert [each for each in annotations if isinstance(each, str)] == [], name


@pytest.mark.parametrize("room", ["errors", "testing", "demos", "utilities.types", "trainer.states"])
def test_annotations_of_errors_and_small_classes_are_types(room: str) -> None:
    members = vars(importlib.import_module(f"leyden.{room}")).values()
    found = [each for each in members if inspect.isclass(each) and each.__module__.startswith("leyden.")]
    assert len(found) > 1
    for cls in found:
        if inspect.isfunction(cls.__init__):
            said = inspect.signature(cls.__init__)
            annotations = [each.annotation for each in said.parameters.values()] + [said.return_annotation]
            assert [each for each in annotations if isinstance(each, str)] == [], cls


CLOSED = [
    (leyden.callbacks.ModelCheckpoint, "save_last", bool | Literal["link"] | None),
    (leyden.callbacks.ModelCheckpoint, "mode", Literal["min", "max"]),
    (leyden.callbacks.EarlyStopping, "mode", Literal["min", "max"]),
    (leyden.callbacks.LearningRateMonitor, "logging_interval", Literal["step", "epoch"] | None),
    (leyden.callbacks.Timer, "interval", Literal["step", "epoch"]),
    (leyden.plugins.HalfPrecision, "precision", Literal["16-true", "bf16-true"]),
    (leyden.plugins.MixedPrecision, "precision", Literal["16-mixed", "bf16-mixed"]),
    (leyden.Trainer, "gradient_clip_algorithm", Literal["norm", "value"] | None),
    (leyden.Trainer, "deterministic", bool | Literal["warn"] | None),
    (leyden.Trainer, "crash_capsule", bool | Literal["weights"]),
]


@pytest.mark.parametrize(("cls", "argument", "annotation"), CLOSED, ids=lambda each: getattr(each, "__name__", str(each)))
def test_closed_sets_of_words_are_said(cls: Any, argument: str, annotation: Any) -> None:
    assert inspect.signature(cls).parameters[argument].annotation == annotation
    assert get_type_hints(cls.__init__)[argument] == annotation


def test_hooks_name_the_trainer_and_the_module() -> None:
    assert get_type_hints(leyden.Callback.on_fit_start)["trainer"] is leyden.Trainer
    assert inspect.signature(leyden.Callback.on_fit_start).parameters["pl_module"].annotation is leyden.LightningModule
    assert leyden.LightningModule.trainer.fget.__annotations__["return"] is leyden.Trainer


# Size

CORE = ("loops/*", "state/*", "trainer/*", "hooks", "callback", "module", "datamodule", "options", "assemble", "strategies/base")
MOST_LINES = {CORE: 8300, ("loops/fit",): 280, ("callbacks/model_checkpoint",): 480}


@pytest.mark.parametrize("parts", MOST_LINES, ids=lambda parts: parts[0])
def test_what_has_to_be_read_stays_short(parts: tuple[str, ...]) -> None:
    files = {file for part in parts for file in (SOURCE / "leyden").glob(f"{part}.py")}
    assert sum(len(file.read_text().splitlines()) for file in files) <= MOST_LINES[parts]
