"""A module that can be served is, once, when training starts; one that cannot is known before the first step."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import kit
import pytest
import torch
from torch import Tensor

import leyden
from leyden.errors import (
    DeviceUnavailable,
    InvalidOption,
    InvalidReturn,
    InvalidType,
    LeydenWarning,
    MissingMethod,
    MissingPackage,
    NotServable,
    UnknownName,
    Unsupported,
)
from leyden.serve import ServableModule, ServableModuleValidator, servable_module_validator
from leyden.testing import BoringModel, random_batches

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")


class Model(BoringModel, ServableModule):
    """Answers with the sum of its layer's outputs, whose weights are ones."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.asked_in = 0, ""
        with torch.no_grad():
            self.layer.weight.fill_(1)
            self.layer.bias.fill_(0)  # type: ignore[union-attr]  # it has one

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.steps += 1
        return super().training_step(batch, batch_idx)

    def configure_payload(self) -> dict[str, Any]:
        return {"body": {"x": [1.0] * 32, "name": "sum"}}

    def configure_serialization(self) -> Any:
        return {"x": torch.tensor}, {"output": Tensor.tolist}

    def serve_step(self, x: Tensor, name: str) -> dict[str, Any]:  # type: ignore[override]  # it takes what the payload has
        assert not torch.is_grad_enabled()
        assert not self.training
        torch.rand(3)
        return {"output": self(x).sum(), "name": name}

    def configure_response(self) -> dict[str, Any]:
        return {"output": 64.0, "name": "sum"}


def fit(module: leyden.LightningModule, **options: Any) -> tuple[ServableModuleValidator, leyden.Trainer]:
    check = ServableModuleValidator(**{"port": 0, **options})
    return check, kit.fit(module, random_batches(2), callbacks=[check], limit_val_batches=0)


def test_a_module_is_served_and_training_goes_on_as_without() -> None:
    torch.manual_seed(1)
    plain = Model()
    kit.fit(plain, random_batches(2), limit_val_batches=0)
    torch.manual_seed(1)
    module = Model()
    check, trainer = fit(module)
    assert check.successful is True
    assert check.resp is not None
    assert (check.resp.status_code, check.resp.ok, check.resp.json()) == (200, True, {"output": 64.0, "name": "sum"})
    assert check.state_dict() == {"successful": True, "optimization": None, "server": "fastapi"}
    assert (module.steps, module.training, module.trainer) == (2, True, trainer)
    assert kit.same(plain, module)
    assert not [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]


def test_it_has_the_defaults_and_order_of_arguments_of_lightning() -> None:
    check = ServableModuleValidator(None, "fastapi", "localhost", 9000, 5, False)
    assert (check.optimization, check.server, check.host, check.port) == (None, "fastapi", "localhost", 9000)
    assert (check.timeout, check.exit_on_failure, check.successful, check.resp) == (5, False, None, None)
    check = ServableModuleValidator()
    assert (check.host, check.port, check.timeout, check.exit_on_failure) == ("127.0.0.1", 8080, 20, True)


class Failing(Model):
    def serve_step(self, x: Tensor, name: str) -> Any:
        raise ZeroDivisionError("no answer")


class Lying(Model):
    def configure_response(self) -> Any:
        return {"output": 65.0, "name": "sum"}


class Bare(Model):
    def serve_step(self, x: Tensor, name: str) -> Any:
        return x


class Unsaid(Model):
    def configure_serialization(self) -> Any:
        return {"y": torch.tensor}, {}


FAILURES = [
    (Failing, "Failing cannot be served.*ZeroDivisionError: no answer. Mend serve_step"),
    (Lying, "Lying answered .*64.0.*configure_response says .*65.0"),
    (Bare, "serve_step returned Tensor. Expected a dict"),
    (Unsaid, "KeyError: 'y'"),
]


@pytest.mark.parametrize(("model", "message"), FAILURES)
def test_one_that_cannot_be_served_ends_the_run_before_the_first_step(model: type[Model], message: str) -> None:
    module = model()
    with pytest.raises(NotServable, match=message):
        fit(module)
    assert module.steps == 0


def test_or_is_only_warned_of() -> None:
    module = Failing()
    with pytest.warns(LeydenWarning, match="Failing cannot be served"):
        check, _ = fit(module, exit_on_failure=False)
    assert (check.successful, module.steps) == (False, 2)
    assert check.resp is not None
    assert (check.resp.status_code, check.resp.ok) == (500, False)


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """What a slow step waits for."""
    event = threading.Event()
    yield event
    event.set()


def test_a_server_that_does_not_answer_in_time(held: threading.Event) -> None:
    class Slow(Model):
        def serve_step(self, x: Tensor, name: str) -> Any:
            held.wait()
            return {}

    with pytest.raises(NotServable, match=r"The server did not answer a request within 0.05 seconds"):
        fit(Slow(), timeout=0.05)


def test_a_port_in_use_and_a_host_that_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DeviceUnavailable, match=rf"cannot listen at 127.0.0.1:{port}: .*in use.* Pass another port="):
            fit(Model(), port=port)
    with pytest.raises(DeviceUnavailable, match=r"cannot listen at no.such.host.invalid:0"):
        fit(Model(), host="no.such.host.invalid")


class Unspoken(Model):
    def configure_payload(self) -> Any:
        return {"body": {"x": torch.ones(2)}}


class Bodiless(Model):
    def configure_payload(self) -> Any:
        return {"x": [1.0]}


def test_modules_that_are_not_servable_say_what_is_missing() -> None:
    with pytest.raises(InvalidType, match=r"model='BoringModel'.*class BoringModel\(LightningModule, ServableModule\)"):
        fit(BoringModel())
    with pytest.raises(InvalidReturn, match=r"configure_payload of Unspoken returned what JSON cannot say"):
        fit(Unspoken())
    with pytest.raises(InvalidReturn, match=r"configure_payload of Bodiless .* Expected a dict with the field 'body'"):
        fit(Bodiless())
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (BoringModel, ServableModule), {})()
    half = type("Half", (Model,), {"serve_step": ServableModule.serve_step})
    half.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]  # as classes without ABC's check have it
    with pytest.raises(MissingMethod, match="Half has no serve_step"):
        fit(half())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optimization": "onnx"}, Unsupported, "optimization='onnx' is not offered"),
        ({"optimization": "zip"}, InvalidOption, "optimization='zip'"),
        ({"server": "torchserve"}, Unsupported, "server='torchserve' is not offered"),
        ({"server": "flask"}, InvalidOption, "server='flask'"),
        ({"host": 1}, InvalidType, "host=1"),
        ({"port": 70000}, InvalidOption, "port=70000"),
        ({"port": "8080"}, InvalidType, "port='8080'"),
        ({"timeout": 0}, InvalidOption, "timeout=0"),
        ({"timeout": "soon"}, InvalidType, "timeout='soon'"),
        ({"exit_on_failure": "no"}, InvalidType, "exit_on_failure='no'"),
        ({"ports": 1}, UnknownName, "Did you mean 'port'"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ServableModuleValidator(**options)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servable_module_validator, "find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(MissingPackage, match=r"needs the package 'uvicorn'.*pip install uvicorn"):
        ServableModuleValidator()
