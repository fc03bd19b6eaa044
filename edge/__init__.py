"""Run quantized language models on hardware people own.

The names below are imported when they are first used, so that `import edge` stays instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.chat import Chat as Chat
    from edge.chat import Reply as Reply
    from edge.checked import InvalidReplyError as InvalidReplyError
    from edge.constraint import Constraint as Constraint
    from edge.engine import Engine as Engine
    from edge.errors import EdgeError as EdgeError
    from edge.errors import EngineBusyError as EngineBusyError
    from edge.prompt import Message as Message
    from edge.request import AdapterChoice as AdapterChoice
    from edge.request import Completion as Completion
    from edge.request import Request as Request
    from edge.server.embedded import Server as Server
    from edge.server.server_settings import ServerSettings as ServerSettings
    from edge.settings import AdapterSettings as AdapterSettings
    from edge.settings import ModelSettings as ModelSettings
    from edge.settings import SamplingSettings as SamplingSettings

_MODULES = {
    "AdapterChoice": "edge.request",
    "AdapterSettings": "edge.settings",
    "Chat": "edge.chat",
    "Completion": "edge.request",
    "Constraint": "edge.constraint",
    "EdgeError": "edge.errors",
    "Engine": "edge.engine",
    "EngineBusyError": "edge.errors",
    "InvalidReplyError": "edge.checked",
    "Message": "edge.prompt",
    "ModelSettings": "edge.settings",
    "Reply": "edge.chat",
    "Request": "edge.request",
    "SamplingSettings": "edge.settings",
    "Server": "edge.server.embedded",
    "ServerSettings": "edge.server.server_settings",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(_MODULES)
