"""Serves the module at the start of training, and asks once: what cannot be served is known before the first step."""

import json
import socket
import threading
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from typing import Annotated, Any, Literal, NamedTuple

import torch

from leyden.callback import Callback
from leyden.checked import check_bool, check_count, check_number
from leyden.distributed.rank_zero import rank_zero_only
from leyden.errors import (
    DeviceUnavailable,
    InvalidOption,
    InvalidReturn,
    InvalidType,
    LeydenWarning,
    MissingMethod,
    MissingPackage,
    NotServable,
    Unsupported,
    warn_user,
)
from leyden.hooks import overrides
from leyden.inspect.export import for_use
from leyden.serve.servable_module import ServableModule
from leyden.spelling import exact_arguments

OPTIMIZATIONS = ("trace", "script", "onnx", "tensorrt")
SERVERS = ("fastapi", "ml_server", "torchserve", "sagemaker")


class Response(NamedTuple):
    """What the server answered."""

    status_code: int
    text: str

    @property
    def ok(self) -> bool:
        return self.status_code < 400

    def json(self) -> Any:
        """The answer, read as JSON."""
        return json.loads(self.text)


@exact_arguments
class ServableModuleValidator(Callback):
    """Checks when training starts that a :class:`ServableModule` can be served: a server on this machine gets its example of a
    request, and has to answer with its example of an answer.

    The server runs in a thread of this process, with the module itself in eval mode; weights, modes and random state are
    afterwards what they were. Needs ``fastapi`` and ``uvicorn``.

    Args:
        optimization: accepted as ``None`` only: the module is served as it is.
        server: ``"fastapi"``, the only one that is offered.
        host: the address at which the server listens.
        port: its port; 0 takes one that is free.
        timeout: the seconds that the server may take to start, and to answer.
        exit_on_failure: whether a module that cannot be served ends the run, with :class:`NotServable`. Otherwise it is said in
            a warning, and :attr:`successful` is false.
    """

    def __init__(
        self,
        optimization: Literal["trace", "script", "onnx", "tensorrt"] | None = None,
        server: Literal["fastapi", "ml_server", "torchserve", "sagemaker"] = "fastapi",
        host: str = "127.0.0.1",
        port: int = 8080,
        timeout: int = 20,
        exit_on_failure: bool = True,
    ) -> None:
        super().__init__()
        if optimization is not None:
            if optimization not in OPTIMIZATIONS:
                raise InvalidOption("optimization", optimization, "None")
            raise Unsupported(f"optimization={optimization!r} is not offered: the module is served as it is. Leave it out.")
        if server != "fastapi":
            if server not in SERVERS:
                raise InvalidOption("server", server, '"fastapi"')
            raise Unsupported(f"server={server!r} is not offered: take server='fastapi', which checks the same of a module.")
        for package in ("fastapi", "uvicorn"):
            if find_spec(package) is None:
                raise MissingPackage(package, "ServableModuleValidator")
        if not isinstance(host, str):
            raise InvalidType("host", host, "an address or a name of this machine, as a text")
        if check_count("port", port, 0, "a port: a whole number from 0 to 65535") > 65535:
            raise InvalidOption("port", port, "a port: a whole number from 0 to 65535")
        if check_number("timeout", timeout, "a number of seconds") <= 0:
            raise InvalidOption("timeout", timeout, "a number of seconds above 0")
        self.optimization = optimization
        self.server = server
        self.host = host
        self.port = port
        self.timeout = timeout
        self.exit_on_failure = check_bool("exit_on_failure", exit_on_failure)
        self.resp: Response | None = None
        """What the server answered."""
        self.__successful: bool | None = None

    @property
    def successful(self) -> bool | None:
        """Whether the module was served and answered what it said; ``None`` before it was tried."""
        return self.__successful

    @rank_zero_only
    def on_train_start(self, trainer: Any, servable_module: Any) -> None:
        """Serve the module once."""
        payload, expected = _checked(servable_module)
        self.__successful = False
        try:
            with for_use(servable_module):
                answer = self.__ask(servable_module, payload)
            if answer.json() != expected:
                raise NotServable(
                    f"{type(servable_module).__name__} answered {answer.json()} to its example of a request, and "
                    f"configure_response says {expected}. Correct one of them."
                )
        except NotServable as error:
            if self.exit_on_failure:
                raise
            warn_user(str(error), LeydenWarning)
            return
        self.__successful = True

    def __ask(self, module: ServableModule, payload: str) -> Response:
        self.resp = None
        try:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            place = socket.create_server((self.host, self.port), family=family)
        except OSError as error:
            raise DeviceUnavailable(
                f"ServableModuleValidator cannot listen at {self.host}:{self.port}: {error.strerror or error}. Pass another "
                f"port=, or port=0 for one that is free."
            ) from error
        address = place.getsockname()
        failures: list[Exception] = []
        server = _server(module, failures)
        thread = threading.Thread(target=_run, args=(server, place), daemon=True)
        thread.start()
        try:
            _request(address, "GET", "/ping", None, self.timeout, "start")
            answer = self.resp = _request(address, "POST", "/serve", payload, self.timeout, "answer a request")
        finally:
            server.should_exit = True
            thread.join(min(self.timeout, 2))  # one that hangs in the user's code is left to itself
        if failures:
            cause = failures[0]
            raise NotServable(
                f"{type(module).__name__} cannot be served: its example of a request ended with {type(cause).__name__}: {cause}. "
                f"Mend serve_step or configure_serialization."
            ) from cause
        return answer

    def state_dict(self) -> dict[str, Any]:
        """Whether the module could be served, and how it was tried."""
        return {"successful": self.successful, "optimization": self.optimization, "server": self.server}


def _checked(module: object) -> tuple[str, Any]:
    """The module's example of a request, as JSON, and of the answer."""
    name = type(module).__name__
    if not isinstance(module, ServableModule):
        raise InvalidType(
            "model", name, "a module that is a ServableModule too", f"Write class {name}(LightningModule, ServableModule)."
        )
    for method in ("configure_payload", "configure_serialization", "serve_step", "configure_response"):
        if not overrides(module, getattr(ServableModule, method)):
            raise MissingMethod(f"{name} has no {method}, which ServableModuleValidator needs.")
    payload: Any = module.configure_payload()
    if not isinstance(payload, dict) or not isinstance(payload.get("body"), dict):
        raise InvalidReturn(
            f"configure_payload of {name} returned {payload!r}. Expected a dict with the field 'body': the arguments of "
            f"serve_step by name."
        )
    try:
        return json.dumps(payload), module.configure_response()
    except (TypeError, ValueError) as error:
        raise InvalidReturn(
            f"configure_payload of {name} returned what JSON cannot say: {error}. Give lists and numbers: "
            f"configure_serialization makes tensors of them."
        ) from error


def _server(module: ServableModule, failures: list[Exception]) -> Any:
    """A server that answers ``/ping``, and ``/serve`` with the module. What fails is noted in ``failures``."""
    from fastapi import Body, FastAPI
    from fastapi.encoders import jsonable_encoder
    from fastapi.responses import JSONResponse
    from uvicorn import Config, Server

    app = FastAPI()

    @app.get("/ping")
    def ping() -> bool:
        return True

    @app.post("/serve")
    async def serve(payload: Annotated[dict[str, Any], Body()]) -> Any:
        try:
            readers, writers = module.configure_serialization()
            body = payload["body"]
            with torch.no_grad():
                output = module.serve_step(**{**body, **{name: read(body[name]) for name, read in readers.items()}})
            if not isinstance(output, dict):
                raise InvalidReturn(f"serve_step returned {type(output).__name__}. Expected a dict of names and values.")
            answer = {**output, **{name: write(output[name]) for name, write in writers.items()}}
            return JSONResponse(jsonable_encoder(answer))
        except Exception as error:
            failures.append(error)
            return JSONResponse({"detail": f"{type(error).__name__}: {error}"}, status_code=500)

    return Server(Config(app, log_config=None, lifespan="off"))


def _run(server: Any, place: socket.socket) -> None:
    with place, suppress(OSError):  # closed meanwhile: nobody waits any more
        server.run(sockets=[place])


def _request(address: Any, method: str, path: str, payload: str | None, timeout: float, what: str) -> Response:
    connection = HTTPConnection(address[0], address[1], timeout=timeout)
    try:
        connection.request(method, path, payload, {"Content-Type": "application/json"} if payload else {})
        answer = connection.getresponse()
        return Response(answer.status, answer.read().decode())
    except (OSError, HTTPException) as error:
        raise NotServable(f"The server did not {what} within {timeout} seconds: {error!r}.") from error
    finally:
        connection.close()
