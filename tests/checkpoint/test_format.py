"""What stands in a checkpoint: values of every kind come back as what they were, and no code runs for it."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import decimal
import enum
import fractions
import io
import pathlib
import sys
import types
import uuid
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, namedtuple
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden.checkpoint.format import Unwritable, decode, encode, type_name, unwritable
from leyden.checkpoint.single_values import MARK
from leyden.hparams_attributes import AttributeDict


def there_and_back(value: Any) -> Any:
    """Through a file that is read without code."""
    buffer = io.BytesIO()
    torch.save(encode(value, "value"), buffer)
    buffer.seek(0)
    return decode(torch.load(buffer, weights_only=True))


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1


class Word(str, enum.Enum):
    HELLO = "hello"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Optimizer:
    lr: float
    betas: tuple[float, float] = (0.9, 0.99)
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    width: int
    optimizer: Optimizer
    colour: Colour = Colour.RED
    made: list[int] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.made.append(1)  # to see that nobody calls it


class Point(NamedTuple):
    x: int
    y: Any


Old = namedtuple("Old", "a b")  # the way without types exists too

ZONE = datetime.timezone(datetime.timedelta(hours=5, minutes=30), "IST")

VALUES = [
    None,
    True,
    3,
    -(1 << 70),
    1 << 2039,
    1 << 5000,
    -(1 << 5000),
    1.5,
    float("inf"),
    "text",
    "\ud800",
    "",
    b"bytes\xff",
    b"",
    bytearray(),
    {b"", b"x"},
    bytearray(b"x"),
    1 + 2j,
    [1, [2, []]],
    (),
    (1, (2, "x")),
    {"a": {"b": []}},
    {1: 2, None: 3, (1, "x"): 4, 1.5: 5, False: 6, b"": 7},
    {Colour.RED: 1, pathlib.Path("a"): 2},
    {MARK: "mine"},
    {MARK: 3, "x": Colour.RED},
    OrderedDict(b=1, a=2),
    OrderedDict([(Colour.RED, 1)]),
    Counter("aab"),
    {1, 2},
    {(1, 2)},
    {Colour.RED},
    set(),
    frozenset({1, Colour.RED}),
    torch.float16,
    torch.device("cuda:1"),
    torch.Size([1, 2]),
    torch.sparse_coo,
    torch.channels_last,
    Colour.RED,
    Colour.BLUE,
    Size.SMALL,
    Word.HELLO,
    Access.READ | Access.WRITE,
    pathlib.Path("a/b"),
    pathlib.PurePosixPath("/a"),
    pathlib.PureWindowsPath("c:\\a"),
    datetime.datetime(2020, 1, 2, 3, 4, 5, 6),
    datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
    datetime.datetime(2020, 1, 2, tzinfo=ZONE),
    datetime.datetime(2020, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    datetime.date(2020, 1, 2),
    datetime.time(1, 2, 3, 4, tzinfo=datetime.timezone(datetime.timedelta(hours=-1))),
    datetime.timedelta(-1, 2, 3),
    datetime.timezone.utc,
    argparse.Namespace(a=1, b=argparse.Namespace(c=pathlib.Path("x"))),
    types.SimpleNamespace(a=1),
    Optimizer(0.1, tags=["x"]),
    Point(1, Colour.RED),
    Old(1, [2]),
    AttributeDict(a=AttributeDict(b=1)),
    defaultdict(list, a=[1]),
    range(1, 9, 2),
    slice(1, None, 2),
    decimal.Decimal("1.10"),
    fractions.Fraction(1, 3),
    uuid.UUID(int=5),
    ...,
    np.dtype("float32"),
    np.dtype([("a", "<i4"), ("b", "<f8", (2,))]),
    Unwritable("net", "Net"),
]


def alike(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(map(repr, a)) == list(map(repr, b)) and all(alike(x, y) for x, y in zip(a.values(), b.values(), strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, argparse.Namespace):
        return alike(vars(a), vars(b))
    if isinstance(a, datetime.datetime):
        return a == b and a.fold == b.fold and str(a.tzinfo) == str(b.tzinfo)
    return bool(a == b)


@pytest.mark.parametrize("value", VALUES, ids=[f"{index}-{type(value).__name__}" for index, value in enumerate(VALUES)])
def test_values_come_back_as_what_they_were(value: Any):
    back = there_and_back(value)
    assert alike(back, value)
    assert alike(there_and_back([{"x": (value,)}]), [{"x": (value,)}])


def test_a_frozen_dataclass_comes_back_without_running_its_code():
    value = Model(3, Optimizer(0.1), Colour.BLUE)
    assert value.made == [1]
    back = there_and_back(value)
    assert back == value
    assert back.made == [1]


def test_a_dataclass_that_grew_a_field_takes_its_default():
    plain = encode(Optimizer(0.5))
    del plain["values"]["betas"], plain["values"]["tags"]
    assert decode(plain) == Optimizer(0.5)
    plain["values"] = {"gone": 1}
    assert decode(plain) == {"gone": 1}


@pytest.mark.parametrize("module", ["not_imported_anywhere", "antigravity"])
def test_what_the_file_names_is_never_imported(module: str):
    for value, without_its_class in ((Optimizer(0.1), {"lr": 0.1, "betas": (0.9, 0.99), "tags": []}), (Point(1, 2), (1, 2))):
        plain = {**encode(value), "of": f"{module}:Thing"}
        assert decode(plain) == without_its_class
    assert decode({**encode(Colour.BLUE), "of": f"{module}:Thing"}) == "blue"
    assert module not in sys.modules


@pytest.mark.parametrize(
    "of", ["os:system", "subprocess:Popen", "builtins:dict", "collections:OrderedDict", "os:path.join", "", ":", "enum:Enum"]
)
def test_only_dataclasses_named_tuples_and_enums_are_made(of: str):
    assert decode({MARK: "dataclass", "of": of, "values": {"args": "ls"}}) == {"args": "ls"}
    assert decode({MARK: "namedtuple", "of": of, "values": ["ls"]}) == ("ls",)
    assert decode({MARK: "enum", "of": of, "name": "x", "value": "ls"}) == "ls"


@pytest.mark.parametrize(
    "plain",
    [
        {MARK: "from the future"},
        {MARK: "datetime", "numbers": [1]},
        {MARK: "path"},
        {MARK: "array", "dtype": "O", "shape": [1], "data": torch.zeros(8, dtype=torch.uint8)},
        {MARK: "scalar", "dtype": "<f8", "data": b""},
        {MARK: "decimal", "text": "x"},
        {MARK: "datetime", "numbers": [2020, 1, 1, 0, 0, 0, 0, 0], "zone": ["../../etc/passwd"]},
        {MARK: "frozenset", "items": [[]]},
    ],
)
def test_what_cannot_be_rebuilt_does_not_keep_the_rest_from_loading(plain: dict[str, Any]):
    decoded = decode({"bad": plain, "good": 1})
    assert isinstance(decoded["bad"], Unwritable)
    assert decoded["good"] == 1


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(3.5),
        np.empty((0, 3), dtype=np.float32),
        np.array(["a", "bc"]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        np.array([(1, 2.0)], dtype=[("a", "<i4"), ("b", "<f8")]),
        np.array([1 + 2j]),
        np.array([True, False]),
        np.arange(10)[::2],
        np.array([1], dtype=">i4"),
    ],
)
def test_arrays_come_back_writable_and_of_their_type(array: np.ndarray[Any, Any]):
    back = there_and_back(array)
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.flags.writeable


@pytest.mark.parametrize(
    "scalar",
    [
        np.float32(1.5),
        np.int64(-3),
        np.bool_(True),
        np.str_("ab"),
        np.datetime64("2020-01-01"),
        np.complex64(1j),
        np.bytes_(b"x"),
        np.str_(""),
    ],
)
def test_numpy_scalars_come_back(scalar: Any):
    back = there_and_back(scalar)
    assert type(back) is type(scalar)
    assert back == scalar


def test_tensors_are_written_as_they_are():
    tensors = {"w": torch.randn(3, requires_grad=True), "p": torch.nn.Parameter(torch.ones(2)), "i": torch.arange(3)}
    assert encode(tensors) is tensors
    back = there_and_back(tensors)
    assert back["w"].requires_grad
    assert isinstance(back["p"], torch.nn.Parameter)
    assert torch.equal(back["i"], tensors["i"])


def test_tensors_lose_what_cannot_be_written():
    class Marked(torch.Tensor):
        pass

    hung = torch.ones(2)
    hung.note = object()  # type: ignore[attr-defined]  # users do that
    grown = torch.ones(2, requires_grad=True) * 2
    back = there_and_back([hung, grown, torch.ones(2).as_subclass(Marked)])
    assert [type(tensor) for tensor in back] == [torch.Tensor] * 3
    assert [tensor.sum().item() for tensor in back] == [2, 4, 2]


def test_plain_containers_stay_the_same_objects():
    state = torch.nn.BatchNorm1d(2).state_dict()
    plain = {"state_dict": state, "epoch": 1, "nested": [(1, 2), {"a": {3}}]}
    assert encode(plain) is plain
    assert decode(plain) is plain
    changed = encode({"state_dict": state, "path": pathlib.Path("a")})
    assert changed["state_dict"] is state
    state["extra"] = pathlib.Path("a")
    assert encode(state)._metadata == state._metadata


def test_what_is_encoded_stays_encoded():
    once = encode({"a": pathlib.Path("a"), "b": Colour.RED})
    assert encode(once) == once
    assert decode(encode(once)) == {"a": pathlib.Path("a"), "b": Colour.RED}


def test_subclasses_of_plain_types_are_written_as_the_plain_type():
    class Words(list[str]):
        pass

    class Named(dict[str, int]):
        pass

    class Text(str):
        __slots__ = ()

    class Number(int):
        pass

    back = there_and_back([Words(["a"]), Named(a=1), Text("x"), Number(3)])
    assert back == [["a"], {"a": 1}, "x", 3]
    assert [type(item) for item in back] == [list, dict, str, int]


class Net(torch.nn.Module):
    pass


def test_what_cannot_be_written_is_recorded_and_the_rest_is_written():
    value = {"lr": 0.1, "net": Net(), "loss": len, "layers": [1, Net], "f": lambda: 1, "deep": Optimizer(object())}  # type: ignore[arg-type]  # on purpose
    plain = encode(value, "hyper_parameters")
    assert unwritable({"hyper_parameters": plain}) == [
        ("hyper_parameters.net", f"{__name__}.Net"),
        ("hyper_parameters.loss", "function builtins.len"),
        ("hyper_parameters.layers[1]", f"class {__name__}.Net"),
        (
            "hyper_parameters.f",
            f"function {__name__}.test_what_cannot_be_written_is_recorded_and_the_rest_is_written.<locals>.<lambda>",
        ),
        ("hyper_parameters.deep.lr", "object"),
    ]
    back = there_and_back(value)
    assert back["lr"] == 0.1
    assert back["net"] == Unwritable("value.net", f"{__name__}.Net")
    assert unwritable(encode({"a": [1, 2], "b": Colour.RED, (1, Colour.RED): 2})) == []
    assert unwritable(encode({Colour.RED: Net()})) == [
        ("{'__leyden__': 'enum', 'of': '" + f"{__name__}:Colour" + "', 'name': 'RED', 'value': 1}", f"{__name__}.Net")
    ]


def test_a_container_that_holds_itself_ends():
    ring: list[Any] = [1]
    ring.append(ring)
    back = there_and_back({"ring": ring, "twice": [ring[0:1]] * 2})
    assert back["ring"][0] == 1
    assert back["ring"][1] == Unwritable("value.ring[1]", "list that contains itself")
    assert back["twice"] == [[1], [1]]


def test_type_names():
    assert type_name(3) == "int"
    assert type_name(Net) == f"class {__name__}.Net"
    assert type_name(Net()) == f"{__name__}.Net"


def test_omegaconf_comes_back_where_it_is_there(monkeypatch: pytest.MonkeyPatch):
    class DictConfig(dict[str, Any]):
        pass

    DictConfig.__module__ = "omegaconf.dictconfig"

    class OmegaConf:
        @staticmethod
        def to_container(config: DictConfig, resolve: bool) -> dict[str, Any]:
            assert not resolve
            return dict(config)

        @staticmethod
        def create(values: dict[str, Any]) -> DictConfig:
            return DictConfig(values)

    module = types.ModuleType("omegaconf")
    module.OmegaConf = OmegaConf  # type: ignore[attr-defined]  # a stand-in for the package
    monkeypatch.setitem(sys.modules, "omegaconf", module)
    plain = encode({"cfg": DictConfig(a=1)})
    assert type(decode(plain)["cfg"]) is DictConfig
    monkeypatch.delitem(sys.modules, "omegaconf")
    assert decode(plain)["cfg"] == AttributeDict(a=1)
    assert unwritable(encode({"cfg": DictConfig(a=1)})) == [("cfg", f"omegaconf.dictconfig.{DictConfig.__qualname__}")]


def test_a_default_dict_keeps_a_known_factory_only():
    back = there_and_back([defaultdict(int, a=1), defaultdict(lambda: 3, a=1)])
    assert back[0]["new"] == 0
    assert back[1].default_factory is None


plain_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=1 << 2000, max_value=1 << 2100)
    | st.floats(allow_nan=False)
    | st.text(alphabet=st.characters())
    | st.binary()
)
scalars = (
    plain_scalars
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.dates()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.uuids()
    | st.sampled_from([*Colour, *Size, *Word, torch.float32, torch.device("cpu"), pathlib.Path("a"), ..., range(3)])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.just(MARK) | st.integers() | st.sampled_from(Colour), inner)
        | st.builds(Point, st.integers(), inner)
        | st.builds(lambda values: argparse.Namespace(**values), st.dictionaries(st.from_regex(r"[a-z]+", fullmatch=True), inner))
        | st.dictionaries(st.text(), inner).map(OrderedDict)
        | st.dictionaries(st.text(), inner).map(AttributeDict)
        | st.frozensets(scalars)
    ),
    max_leaves=6,
)


@given(values)
def test_any_nesting_comes_back(value: Any):
    assert alike(there_and_back(value), value)
    assert unwritable(encode(value)) == []


@given(
    st.recursive(
        plain_scalars | st.builds(object), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
    )
)
def test_anything_can_be_written(value: Any):
    there_and_back(value)
    assert all(kind == "object" for _, kind in unwritable(encode(value)))


def test_an_attribute_dict_reads_as_both():
    value = AttributeDict({"a": 1, "my-key": 2})
    value.b = 3
    assert (value.a, value["b"]) == (1, 3)
    del value.b
    assert repr(value) == '"a":      1\n"my-key": 2'
    assert value.copy() == value
    assert type(value.copy()) is AttributeDict
    with pytest.raises(AttributeError, match=r"There is no 'c' here\. Present: a, my-key\."):
        value.c  # noqa: B018  # the reading is what is tested
    with pytest.raises(AttributeError, match="There is no 'c'"):
        del value.c
