"""The Video and the Image tab: input and facts, options and estimate, the live panel."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import gradio as gr

from src.config import Options
from src.errors import FlashVSRError, InputError
from src.hub import find
from src.releases import get_release
from src.ui import widgets
from src.ui.estimate import estimate
from src.ui.facts import Facts, facts_of
from src.ui.presets import ABOUT, PRESETS, preset_values
from src.ui.security import inside, user_of
from src.ui.service import VIDEO_FILES, Service, folder_files

EXCERPT_SECONDS = 2
_PICTURES = [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"]
_STARTED = "() => window.flashvsr.started()"


def owner_of(service: Service, request: gr.Request) -> str:
    """The user's name; "" without a login."""
    return "" if service.local else user_of(request.headers)[0]


@dataclass
class MediaTab:
    """One tab. ``media``: "video" or "image"."""

    service: Service
    media: str

    def build(self) -> None:
        self.fields = widgets.fields(self.media)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                self._build_input()
            with gr.Column(scale=4, min_width=280):
                self._build_options()
            with gr.Column(scale=6, min_width=300):
                gr.HTML(f'<section id="live-{self.media}" aria-label="Result"></section>')
        self._connect()

    # ------------------------------------------------------------------ what is seen

    def _build_input(self) -> None:
        video = self.media == "video"
        self.files = gr.File(
            label="Clips" if video else "Pictures",
            file_count="multiple",
            file_types=sorted(VIDEO_FILES) if video else _PICTURES,
            type="filepath",
            height=170,
            elem_id=f"{self.media}-files",
        )
        with gr.Accordion("A folder on this computer", open=False, visible=self.service.local):
            self.folder = gr.Textbox(
                label="Folder",
                info="every video in it" if video else "every picture in it",
                placeholder="/home/me/clips",
                elem_id=f"{self.media}-folder",
            )
        self.facts = gr.HTML(_note("Facts of the input appear here."), elem_id=f"{self.media}-facts")
        with gr.Group(visible=False) as self.trim:
            self.start = gr.Slider(0, 1, 0, step=0.01, label="Start (seconds)", buttons=[], elem_id="trim-start")
            self.end = gr.Slider(0, 1, 1, step=0.01, label="End (seconds)", buttons=[], elem_id="trim-end")
            self.trim_frames = gr.HTML("", elem_id="trim-frames", padding=True, elem_classes="fv-plain")

    def _build_options(self) -> None:
        start = self.service.settings.current.preset
        self.preset = gr.Radio(
            list(PRESETS), value=start, label="Preset", info=ABOUT[start], elem_id=f"{self.media}-preset"
        )
        self.controls: list[Any] = []
        folded = [item for item in self.fields if item.name not in widgets.MAIN]
        for item in self.fields:
            if item.name in widgets.MAIN:
                self.controls.append(widgets.make_widget(item, self.media))
        with gr.Accordion("Advanced options", open=False, elem_id=f"{self.media}-advanced"):
            by_name = {}
            for group in dict.fromkeys(item.metadata["group"] for item in folded):
                gr.HTML(f"<h4>{widgets.GROUPS.get(group, group.capitalize())}</h4>")
                for item in folded:
                    if item.metadata["group"] == group:
                        by_name[item.name] = widgets.make_widget(item, self.media)
            self.controls += [by_name[item.name] for item in folded]
        self.refresh()
        self.estimate = gr.HTML("", elem_id=f"{self.media}-estimate")
        self.plan = gr.HTML("", elem_id=f"{self.media}-plan")
        with gr.Row():
            self.run = gr.Button("Upscale", variant="primary", elem_id=f"{self.media}-run", min_width=120)
            if self.media == "video":
                label = f"Try {EXCERPT_SECONDS} seconds"
                self.excerpt = gr.Button(label, elem_id="video-try", min_width=120)

    def refresh(self) -> None:
        """Fresh pages begin with the preset of the settings."""
        name = self.service.settings.current.preset
        values = preset_values(name, has_full=self._has_full())
        self.preset.value, self.preset.info = name, ABOUT[name]
        for item, control in zip(self.fields, self.controls, strict=True):
            if item.name in values:
                control.value = _shown(values[item.name])

    def _connect(self) -> None:
        inputs = [self.files, self.folder, self.start, self.end, *self.controls]
        look: dict[str, Any] = {
            "fn": self.on_files,
            "inputs": [self.files],
            "outputs": [self.facts, self.trim, self.start, self.end],
        }
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        estimate: dict[str, Any] = {"fn": self.on_estimate, "inputs": inputs, "outputs": [self.estimate]} | quiet
        plan: dict[str, Any] = {"fn": self.on_plan, "inputs": inputs, "outputs": [self.plan]} | quiet
        frames = {
            "fn": self.on_trim,
            "inputs": [self.files, self.start, self.end],
            "outputs": [self.trim_frames],
        } | quiet
        self.files.change(**look, api_visibility="private").then(**estimate).then(**frames).then(**plan)
        # One event with many triggers: one for each control makes the page half a second slower to open.
        changes = [_settled(control) for control in self.controls]
        gr.on(changes, **estimate, trigger_mode="always_last").then(**plan)
        ends = (self.start, self.end)
        gr.on([slider.input for slider in ends], **estimate, trigger_mode="always_last")
        released = gr.on([slider.release for slider in ends], **estimate, trigger_mode="always_last")
        released.then(**frames).then(**plan)
        changed = self.preset.input(self.on_preset, [self.preset], [self.preset, *self.controls], **quiet)
        changed.then(**estimate).then(**plan)
        self.run.click(self.on_run, inputs, None, **quiet).success(None, js=_STARTED)
        if self.media == "video":
            self.excerpt.click(self.on_excerpt, inputs, None, **quiet).success(None, js=_STARTED)

    # ------------------------------------------------------------------ what happens

    def on_files(self, files: list[str] | None) -> tuple[Any, ...]:
        """Facts of the first file, and the bounds of the trim."""
        hidden = (gr.update(visible=False), gr.update(), gr.update())
        if not files:
            return (_note("Facts of the input appear here."), *hidden)
        try:
            facts = facts_of(Path(files[0]), self.media)
        except FlashVSRError as error:
            return (_error(_without_folder(str(error), files[0])), *hidden)
        text = _rows(facts.rows)
        if len(files) > 1:
            text = _note(f"{len(files)} files, one set of options. The first one:") + text
        if not facts.duration or len(files) > 1:
            return (text, *hidden)
        length = float(facts.duration)
        bound = gr.update(minimum=0, maximum=length, value=0)
        return text, gr.update(visible=True), bound, gr.update(minimum=0, maximum=length, value=length)

    def on_trim(self, files: list[str] | None, start: float, end: float) -> str:
        """The first and the last frame of the trim, as pictures."""
        if not files or len(files) > 1 or self.media != "video":
            return ""
        from src.ui.frames import frame_at, jpeg
        from src.video import probe

        try:
            info = probe(Path(files[0]))
            figures = []
            for name, second in (("First frame", start), ("Last frame", end)):
                at = info.first + Fraction(repr(float(second)))
                at -= 1 / info.fps if name == "Last frame" else 0
                data = base64.b64encode(jpeg(frame_at(info, at), 320)).decode()
                picture = f'<img src="data:image/jpeg;base64,{data}" alt="{name} of the part that is upscaled">'
                figures.append(f"<figure>{picture}<figcaption>{name}, {second:.2f} s</figcaption></figure>")
        except FlashVSRError as error:
            return _error(_without_folder(str(error), files[0]))
        return f'<div class="fv-trim">{"".join(figures)}</div>'

    def on_preset(self, name: str) -> list[Any]:
        values = preset_values(name, has_full=self._has_full())
        updates = [gr.update(value=name, info=ABOUT[name])]
        for item in self.fields:
            updates.append(gr.update(value=_shown(values[item.name])) if item.name in values else gr.skip())
        return updates

    def on_estimate(self, files: list[str] | None, folder: str, start: float, end: float, *values: Any) -> str:
        if not files:
            return ""
        try:
            facts = facts_of(Path(files[0]), self.media)
            chosen = self._values(facts if len(files) == 1 else None, start, end, values)
            options = Options(**chosen, input=Path(files[0]), models_dir=self.service.settings.current.models)
            rows = estimate(options, facts, self.service.store.speeds)
        except FlashVSRError as error:
            return _error(_without_folder(str(error), files[0]))
        return f"{_rows(rows)}"

    def on_plan(
        self, request: gr.Request, files: list[str] | None, folder: str, start: float, end: float, *values: Any
    ) -> str:
        """Memory and time by the worker's plan; it answers later than the estimate, so it stands below it."""
        if not files:
            return ""
        try:
            facts = facts_of(Path(files[0]), self.media)
            chosen = self._values(facts if len(files) == 1 else None, start, end, values)
            return _rows(self.service.plan(chosen, Path(files[0]), owner_of(self.service, request)))
        except InputError:
            return ""  # the estimate above says what is wrong
        except FlashVSRError as error:
            return _error(_without_folder(str(error), files[0]))

    def on_run(
        self, request: gr.Request, files: list[str] | None, folder: str, start: float, end: float, *values: Any
    ) -> None:
        self._submit(request, files, folder, start, end, values)

    def on_excerpt(
        self, request: gr.Request, files: list[str] | None, folder: str, start: float, end: float, *values: Any
    ) -> None:
        """Two seconds from the chosen start."""
        self._submit(request, files, folder, start, min(end, start + EXCERPT_SECONDS), values)

    def _submit(
        self,
        request: gr.Request,
        files: list[str] | None,
        folder: str,
        start: float,
        end: float,
        values: tuple[Any, ...],
    ) -> None:
        owner = owner_of(self.service, request)
        try:
            paths = [Path(file) for file in files or []]
            if any(not inside(path, [self.service.uploads]) for path in paths):
                raise InputError("only uploaded files can be used")
            if not paths and folder.strip() and self.service.local:
                paths = folder_files(Path(folder.strip()), self.media)
            facts = None
            if len(paths) == 1 and self.media == "video":
                facts = facts_of(paths[0], self.media)
            chosen = self._values(facts, start, end, values)
            jobs = self.service.submit(paths, chosen, self.media, owner, batch=len(paths) > 1)
        except FlashVSRError as error:
            raise gr.Error(_without_folder(str(error), files[0] if files else ""), title="Cannot start") from error
        gr.Info(f"{len(jobs)} files are in the queue" if len(jobs) > 1 else f"{jobs[0].title} is in the queue")

    def _values(self, facts: Facts | None, start: float, end: float, values: tuple[Any, ...]) -> dict[str, Any]:
        chosen = widgets.to_values(self.fields, list(values))
        if facts is not None and facts.duration:
            # The sliders count in hundredths: an end at the end means no end.
            if start > 0:
                chosen["start"] = round(float(start), 3)
            if end < float(facts.duration) - 0.005:
                chosen["end"] = round(float(end), 3)
        return chosen

    def _has_full(self) -> bool:
        """True if a release with the large decoder lies on this machine."""
        _, missing = find(get_release("1.1"), "full", self.service.settings.current.models)
        return not missing


def _settled(control: Any) -> Any:
    """The event of a finished change: not every step of a drag, not every letter."""
    if isinstance(control, gr.Slider):
        return control.release
    return control.blur if isinstance(control, gr.Textbox) else control.input


def _shown(value: Any) -> Any:
    return float(value) if isinstance(value, Fraction) else value


def _note(text: str) -> str:
    return f'<p class="fv-dim">{html.escape(text)}</p>'


def _error(text: str) -> str:
    return f'<p class="fv-error" role="alert">{html.escape(text)}</p>'


def _rows(rows: Any) -> str:
    cells = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in rows)
    return f'<dl class="fv-facts">{cells}</dl>'


def _without_folder(text: str, file: str) -> str:
    """An upload lies in a folder that means nothing to its owner."""
    return text.replace(f"{Path(file).parent}/", "").replace(f"{Path(file).parent}\\", "") if file else text
