"""From the setting `agent = "package.module:function"` to a checked handler."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from sluicegate.errors import ConfigurationError
from sluicegate.events.models import Event, Result
from sluicegate.processing.context import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """The user's coroutine and what its annotations promise. `result` None: it publishes nothing, ever."""

    name: str
    argument: type[Event]
    result: type[Result] | None
    run: Callable[[Any, Context], Coroutine[Any, Any, Result | None]]


def load_handler(name: str) -> Handler:
    """Import the handler that a stream's `agent` setting names.

    Raises ConfigurationError, which says what to change, when there is none or its signature is not
    `async def handler(event: Model, ctx: Context) -> ResultModel | None`.
    """
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise ConfigurationError(f'agent = "{name}": write it as "package.module:function"')
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f'agent = "{name}": no module {error.name}; install it, or put its folder into PYTHONPATH'
        ) from error
    run = getattr(module, function_name, None)
    if run is None:
        raise ConfigurationError(f'agent = "{name}": module {module_name} has no {function_name}')
    return handler_of(name, run)


def handler_of(name: str, run: Any) -> Handler:
    """Read the models from the coroutine's annotations, or raise ConfigurationError."""
    if not inspect.iscoroutinefunction(run):
        raise ConfigurationError(f'agent = "{name}": it must be a coroutine function (async def)')
    hints = _hints(name, run)
    parameters = [p for p in inspect.signature(run).parameters.values() if p.default is p.empty]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) != 2 or any(p.kind not in positional for p in parameters):
        raise ConfigurationError(f'agent = "{name}": it must take exactly (event, ctx)')
    argument = hints.get(parameters[0].name)
    if not (isinstance(argument, type) and issubclass(argument, Event)):
        raise ConfigurationError(
            f'agent = "{name}": annotate {parameters[0].name} with a model that derives from '
            "sluicegate.events.models.Event"
        )
    _require(name, argument, "id_field", "the field that stands for a missing key")
    result = _result_model(name, hints)
    if result is not None:
        _require(name, result, "ce_type", "the CloudEvents type of what is published")
    return Handler(name=name, argument=argument, result=result, run=run)


def _hints(name: str, run: Any) -> dict[str, Any]:
    try:
        return get_type_hints(run)
    except NameError as error:
        raise ConfigurationError(
            f'agent = "{name}": its annotations name {error.name}, which is not imported'
        ) from error


def _result_model(name: str, hints: dict[str, Any]) -> type[Result] | None:
    annotation = hints.get("return", Any)
    if annotation is NoneType:
        return None
    is_union = get_origin(annotation) in (Union, UnionType)
    choices = [c for c in (get_args(annotation) if is_union else (annotation,)) if c is not NoneType]
    if len(choices) == 1 and isinstance(choices[0], type) and issubclass(choices[0], Result):
        return choices[0]
    raise ConfigurationError(
        f'agent = "{name}": annotate its result with one model that derives from '
        'sluicegate.events.models.Result, perhaps "| None"'
    )


def _require(name: str, model: type[Event | Result], attribute: str, meaning: str) -> None:
    if not isinstance(getattr(model, attribute, None), str):
        raise ConfigurationError(
            f'agent = "{name}": {model.__name__} needs {attribute}: ClassVar[str], {meaning}'
        )
