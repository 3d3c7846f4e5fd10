"""Objects as JSON: constructor arguments out, the same object back.

Only data passes through here. A name that is neither one of this package's classes nor in ``custom_objects`` is an
error: a configuration cannot make anything be imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from .checks import refuse_masked

__all__ = ["Configurable", "as_json", "as_lists", "deserialize", "serialize", "snake_case"]


def snake_case(name: str) -> str:
    """MeanSquaredError -> mean_squared_error."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class _Signature:
    """The constructor's parameters for ``help``, which would otherwise show those of ``Configurable.__new__``."""

    def __get__(self, instance: object, owner: type[Any]) -> Any:
        import inspect

        if instance is not None:
            raise AttributeError("__signature__")
        signature = inspect.signature(owner.__init__)
        return signature.replace(parameters=list(signature.parameters.values())[1:])


class Configurable:
    """Remembers how it was constructed.

    ``get_config`` reports each constructor parameter with its present value: the attribute of the same name when
    there is one, else what was passed. A subclass whose attributes mean something else overrides it.
    """

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]
    __signature__ = _Signature()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if (args or kwargs) and cls.__init__ is Configurable.__init__:
            given = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
            raise TypeError(f"{cls.__name__}: expected no arguments; received {given}")
        self = super().__new__(cls)
        self._arguments = (args, kwargs)
        return self

    def __init__(self) -> None:
        # Without a docstring: ``help`` would show it at every subclass's constructor.
        pass

    def __repr__(self) -> str:
        try:
            config = self.get_config()
        except Exception:  # a user's get_config, or an object that is not finished
            return object.__repr__(self)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in config.items())})"

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments by name."""
        import inspect

        args, kwargs = self._arguments
        signature = inspect.signature(type(self).__init__)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        config = dict(list(bound.arguments.items())[1:])
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                config.update(config.pop(name, {}))
            elif parameter.kind is parameter.VAR_POSITIONAL and config.pop(name, ()):
                raise TypeError(f"{type(self).__name__}.get_config: *{name} cannot be stored; override get_config")
        return {name: getattr(self, name, value) for name, value in config.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The inverse of ``get_config``."""
        return cls(**config)


def serialize(value: Any) -> Any:
    """`value` as JSON data but for its arrays, of which ``as_lists`` makes lists. Raises TypeError for what JSON cannot
    hold, ValueError for what would come back as something else."""
    if isinstance(value, np.ndarray):
        refuse_masked("get_config", "arrays", value)
        return {"array": value}
    if isinstance(value, Configurable):
        config = value.get_config()
        if not isinstance(config, Mapping):
            raise TypeError(f"{type(value).__name__}.get_config: expected a mapping; received {type(config).__name__}")
        return {"class": type(value).__name__, "config": _as_json(config)}
    if isinstance(value, Mapping) and ("class" in value or set(value) == {"array"}):
        raise ValueError(
            "get_config: expected mappings without the key 'class' and not of 'array' alone, which stand for objects"
            f" and arrays (give these themselves); received {dict(value)!r:.80}"
        )
    return _as_json(value)


def as_lists(data: Any) -> Any:
    """What ``serialize`` gave as JSON data; raises TypeError for arrays that would come back as others."""
    if isinstance(data, list):
        return [as_lists(item) for item in data]
    if isinstance(data, dict):
        return {name: as_lists(item) for name, item in data.items()}
    if not isinstance(data, np.ndarray):
        return data
    lists = data.tolist()
    if data.dtype.kind not in "biufU" or (not data.size and np.shape(lists) != data.shape):
        raise TypeError(
            "get_config: expected arrays of real numbers or text, of which lists tell the shape;"
            f" received dtype {data.dtype} and shape {data.shape}"
        )
    return lists


def _as_json(value: Any) -> Any:
    return as_json(value, "get_config", "numbers, text, lists, mappings by text or arrays", serialize)


def as_json(value: Any, where: str, expected: str, item: Callable[[Any], Any]) -> Any:
    """`value` as it comes back from JSON, its items by `item`; raises TypeError for what would come back as another."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [item(each) for each in value]
    if not isinstance(value, Mapping):
        raise TypeError(f"{where}: expected {expected}; received {type(value).__name__}")
    for name in value:
        if not isinstance(name, str):
            raise TypeError(f"{where}: expected {expected}; received a mapping with the key {name!r}")
    return {str(name): item(each) for name, each in value.items()}


def deserialize(data: Any, classes: Mapping[str, type[Any]], kind: str) -> Any:
    """The object that ``serialize`` described, made of one of `classes` (name -> class)."""
    if isinstance(data, list):
        return [deserialize(item, classes, kind) for item in data]
    if not isinstance(data, Mapping):
        return data
    if set(data) == {"array"}:
        return np.array(data["array"])  # a copy: the data may be another model's
    if "class" not in data:
        return {name: deserialize(item, classes, kind) for name, item in data.items()}
    name, config = data["class"], data.get("config", {})
    if not isinstance(name, str) or name not in classes:
        raise ValueError(
            f"from_config: expected a {kind} known to fastperceptron or given in custom_objects; received {name!r}"
        )
    if not isinstance(config, Mapping):
        raise ValueError(f"from_config: expected the configuration of {name} to be a mapping; received {config!r}")
    arguments = {key: deserialize(item, classes, kind) for key, item in config.items()}
    return classes[name].from_config(arguments)
