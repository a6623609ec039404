"""What a tool is, and what its parameters are: declared once, for the command line and the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from src.errors import InputError


@dataclass(frozen=True)
class Parameter:
    """One setting of a tool.

    ``kind``: str, path, paths, int, float, fraction, time, flag or choice. ``default`` None: not set.
    ``bounds``: least and greatest value. ``unit``: of a number. ``advanced``: a page may fold it away.
    """

    name: str
    kind: str
    default: Any
    help: str
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    advanced: bool = False
    required: bool = False

    def __post_init__(self) -> None:
        if self.kind not in _PARSERS:
            raise ValueError(f"parameter {self.name}: unknown kind {self.kind!r}")

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def label(self) -> str:
        """For a widget: ``size_mb`` -> ``Size (MB)``."""
        words = self.name.removesuffix("_mb").replace("_", " ").capitalize()
        return f"{words} ({self.unit})" if self.unit else words

    def parse(self, value: Any) -> Any:
        """``value`` (text or typed; "" and None: not set) in its own type. Raises InputError naming flag and value."""
        if value is None or value == "" or value == ():
            if self.required:
                raise InputError(f"{self.flag} needs a value: {self.help}")
            return self.default
        try:
            parsed = _PARSERS[self.kind](value)
        except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
            raise InputError(f"{self.flag} {value!r} is not {_WORDS[self.kind]}") from error
        if self.choices and parsed not in self.choices:
            raise InputError(f"{self.flag} {value!r} is not one of {', '.join(self.choices)}")
        if self.bounds and not self.bounds[0] <= parsed <= self.bounds[1]:
            raise InputError(f"{self.flag} {value} is outside {self.bounds[0]:g}..{self.bounds[1]:g}")
        return parsed


@dataclass(frozen=True)
class Tool:
    """One tool.

    ``kind``: "filter" (frames to frames), "output" (frames to a file or folder) or "report" (a file to facts).
    ``function`` gets the job, then a clip (filter, output) or a path (report), then the parameters by name.
    """

    name: str
    title: str
    help: str
    kind: str
    parameters: tuple[Parameter, ...]
    function: Callable[..., Any]

    def parse(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter, checked; those not in ``values`` have their defaults. Raises InputError."""
        known = {parameter.name: parameter for parameter in self.parameters}
        strangers = [name for name in values if name not in known]
        if strangers:
            raise InputError(f"{self.name} has no parameter {strangers[0]!r}; it has {', '.join(known) or 'none'}")
        return {name: parameter.parse(values.get(name)) for name, parameter in known.items()}


def parse_time(value: Any) -> Fraction:
    """Seconds from ``90``, ``1:30`` or ``00:01:30.5``. ValueError for anything else."""
    parts = [value] if not isinstance(value, str) else value.split(":")
    if isinstance(value, str) and (len(parts) > 3 or not all(re.fullmatch(r"\d+(\.\d+)?", part) for part in parts)):
        raise ValueError(value)
    seconds = Fraction(0)
    for part in parts:
        seconds = seconds * 60 + parse_fraction(part)
    if seconds < 0:
        raise ValueError(value)
    return seconds


def parse_fraction(value: Any) -> Fraction:
    """The number that was written: of a float its decimal, not its binary neighbour."""
    return Fraction(repr(value)) if isinstance(value, float) else Fraction(value)


def _parse_int(value: Any) -> int:
    number = int(value)
    if isinstance(value, float) and number != value:
        raise ValueError(value)
    return number


def _parse_float(value: Any) -> float:
    number = float(value)
    if number != number:
        raise ValueError(value)
    return number


def _parse_flag(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no", "on", "off"):
        return value.lower() in ("true", "yes", "on")
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def _parse_paths(value: Any) -> tuple[Path, ...]:
    if isinstance(value, (str, Path)):
        value = [value]
    return tuple(Path(item) for item in value)


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "str": str,
    "choice": str,
    "path": Path,
    "paths": _parse_paths,
    "int": _parse_int,
    "float": _parse_float,
    "fraction": parse_fraction,
    "time": parse_time,
    "flag": _parse_flag,
}
_WORDS = {
    "str": "text",
    "choice": "text",
    "path": "a path",
    "paths": "paths",
    "int": "a whole number",
    "float": "a number",
    "fraction": "a number",
    "time": "a time (seconds or [HH:]MM:SS[.s])",
    "flag": "true or false",
}
