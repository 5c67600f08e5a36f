"""What a module says of itself so that a server can answer requests with it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class ServableModule(ABC, nn.Module):
    """A base beside :class:`LightningModule`: ``class Model(LightningModule, ServableModule)``.

    A request is a JSON object with the field ``"body"``, whose fields are the arguments of :meth:`serve_step`.
    :class:`ServableModuleValidator` tries it at the start of training.
    """

    @abstractmethod
    def configure_payload(self) -> dict[str, Any]:
        """An example of a request: ``{"body": {name: value}}``, of what JSON can say."""

    @abstractmethod
    def configure_serialization(self) -> tuple[dict[str, Callable[..., Any]], dict[str, Callable[..., Any]]]:
        """Two dicts of functions: what makes an argument of :meth:`serve_step` out of the body's field of the same name, and
        what makes something that JSON can say out of the field of its answer. A field without a function stays as it is.
        """

    @abstractmethod
    def serve_step(self, *args: Tensor, **kwargs: Tensor) -> dict[str, Tensor]:
        """The answer to a request, called with the body's fields by name, in eval mode and without gradients."""

    @abstractmethod
    def configure_response(self) -> dict[str, Any]:
        """What the server is to answer to :meth:`configure_payload`'s request."""
