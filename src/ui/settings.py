"""What a person sets once: folders, theme, preset. One readable JSON file."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import InputError
from src.ui.presets import PRESETS

log = logging.getLogger(__name__)

THEMES = ("system", "light", "dark")


@dataclass(frozen=True)
class Settings:
    """Checked on construction: InputError names the field and the value."""

    output_folder: str = "outputs"
    models_folder: str = "models"
    theme: str = "system"
    preset: str = "Balanced"

    def __post_init__(self) -> None:
        for name in ("output_folder", "models_folder"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip() or "\0" in value:
                raise InputError(f"{name} {value!r} is not a folder name")
            if Path(value).expanduser().is_file():
                raise InputError(f"{name} {value!r} is a file, not a folder")
        if self.theme not in THEMES:
            raise InputError(f"theme {self.theme!r} is not one of {', '.join(THEMES)}")
        if self.preset not in PRESETS:
            raise InputError(f"preset {self.preset!r} is not one of {', '.join(PRESETS)}")

    @property
    def outputs(self) -> Path:
        return Path(self.output_folder).expanduser().absolute()

    @property
    def models(self) -> Path:
        return Path(self.models_folder).expanduser().absolute()


class SettingsFile:
    """The settings and their file. A broken file is set aside and reported, never in the way of a start."""

    def __init__(self, path: Path, fixed: dict[str, str] | None = None) -> None:
        """``fixed``: fields given on the command line, which hold for this run. InputError for a bad one."""
        self.path, self.fixed = path, fixed or {}
        self.problem = ""  # what was wrong with the file, for the page to show
        self._saved = self._load()
        self.current = dataclasses.replace(self._saved, **self.fixed)

    def save(self, settings: Settings) -> None:
        """Write and use ``settings``. InputError when the file or the output folder cannot be written.

        Fixed fields stay as they are, both in the file and in use.
        """
        kept = {name: getattr(self._saved, name) for name in self.fixed}
        settings = dataclasses.replace(settings, **self.fixed)
        saved = dataclasses.replace(settings, **kept)
        try:
            settings.outputs.mkdir(parents=True, exist_ok=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
            temporary.write_text(json.dumps(dataclasses.asdict(saved), indent=2) + "\n", encoding="utf-8")
            os.replace(temporary, self.path)  # noqa: PTH105 - atomic on every system
        except OSError as error:
            raise InputError(f"settings cannot be saved: {error}") from error
        self.current, self._saved, self.problem = settings, saved, ""

    def _load(self) -> Settings:
        if not self.path.exists():
            return Settings()
        try:
            found: Any = json.loads(self.path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise InputError("it holds no settings")
        except (OSError, ValueError, InputError) as error:
            self._set_aside(str(error))
            return Settings()
        return self._checked(found)

    def _checked(self, found: dict[str, Any]) -> Settings:
        """Every field that is good; a bad one keeps its default and is reported."""
        known = {item.name for item in dataclasses.fields(Settings)}
        settings, bad = Settings(), []
        for name, value in found.items():
            if name not in known:
                bad.append(f"{name} is unknown")
                continue
            try:
                settings = dataclasses.replace(settings, **{name: value})
            except InputError as error:
                bad.append(str(error))
        if bad:
            self._report(f"{'; '.join(bad)}: defaults are used")
        return settings

    def _set_aside(self, why: str) -> None:
        aside = self.path.with_suffix(".broken.json")
        try:
            os.replace(self.path, aside)  # noqa: PTH105
            self._report(f"{why}; it is kept as {aside.name}, defaults are used")
        except OSError as error:
            self._report(f"{why}, and it cannot be moved away ({error}); defaults are used")

    def _report(self, words: str) -> None:
        self.problem = f"The settings file {self.path.name} has a problem: {words}"
        log.warning("%s", self.problem)
