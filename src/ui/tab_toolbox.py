"""The Toolbox tab: a chain of steps built from the registry of tools, run as a job of the queue."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import gradio as gr

from src.errors import FlashVSRError, InputError
from src.ui.security import inside, user_of
from src.ui.service import Service
from src.ui.toolbox_jobs import known_files, submit_tools
from toolbox import TOOLS
from toolbox.parameters import Parameter

Steps = list[dict[str, Any]]  # name: of the tool; key: of its widgets
_STARTED = "() => window.flashvsr.started()"


class ToolboxTab:
    """``known`` are files that need no upload: results of earlier jobs and their inputs."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def build(self, page: gr.Blocks, tab: gr.Tab) -> None:
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                file = gr.File(
                    label="Clip or picture", file_count="single", type="filepath", height=150, elem_id="toolbox-file"
                )
                known = gr.Dropdown(
                    [], value=None, label="Or an earlier file", info="results and their inputs", elem_id="toolbox-known"
                )
                choices = [(f"{tool.title} ({_KINDS[tool.kind]})", tool.name) for tool in TOOLS.values()]
                tool = gr.Dropdown(
                    choices, value=choices[0][1], label="Tool", info=TOOLS[choices[0][1]].help, elem_id="toolbox-tool"
                )
                add = gr.Button("Add step", elem_id="toolbox-add")
            with gr.Column(scale=4, min_width=280):
                steps = gr.State([])
                quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

                @gr.render(inputs=[steps], triggers=[steps.change, page.load], show_progress="hidden")
                def chain(current: Steps) -> None:
                    self._draw_chain(current, steps, file, known)

            with gr.Column(scale=6, min_width=300):
                gr.HTML('<section id="live-toolbox" aria-label="Result"></section>')
        tool.input(lambda name: gr.update(info=TOOLS[name].help), tool, tool, **quiet)
        add.click(_with_step, [steps, tool], steps, **quiet)
        tab.select(self.on_select, None, known, **quiet)

    def _draw_chain(self, current: Steps, steps: gr.State, file: Any, known: Any) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        if not current:
            gr.HTML('<p class="fv-empty">Add the first step. Filters can follow each other; an export comes last.</p>')
            return
        widgets: list[Any] = []
        for number, step in enumerate(current):
            tool = TOOLS[step["name"]]
            with gr.Group():
                gr.HTML(
                    f'<h3>{number + 1}. {html.escape(tool.title)}</h3><p class="fv-dim">{html.escape(tool.help)}</p>',
                    padding=True,
                    elem_classes="fv-plain",
                )
                plain = [item for item in tool.parameters if not item.advanced]
                made = {item.name: self._widget(item, step["key"]) for item in plain}
                if len(plain) < len(tool.parameters):
                    with gr.Accordion("Advanced", open=False):
                        made |= {p.name: self._widget(p, step["key"]) for p in tool.parameters if p.advanced}
                widgets += [made[item.name] for item in tool.parameters]
                with gr.Row():
                    up = gr.Button("Earlier", size="sm", interactive=number > 0, min_width=80)
                    away = gr.Button("Remove step", size="sm", min_width=80)
            up.click(lambda now, at=number: _moved(now, at), steps, steps, **quiet)
            away.click(lambda now, at=number: [s for n, s in enumerate(now) if n != at], steps, steps, **quiet)
        run = gr.Button("Run", variant="primary", elem_id="toolbox-run")

        def on_run(request: gr.Request, path: str | None, earlier: str | None, *values: Any) -> None:
            self._run(request, path, earlier, current, values)

        run.click(on_run, [file, known, *widgets], None, **quiet).success(None, js=_STARTED)

    def _widget(self, item: Parameter, key: str) -> Any:
        """One control for a parameter; files are chosen among the known ones or uploaded in place of the clip."""
        common: dict[str, Any] = {
            "label": item.label + (" *" if item.required else ""),
            "info": item.help[:1].upper() + item.help[1:],
            "interactive": True,
            "key": f"{key}-{item.name}",
            "elem_id": f"tool-{item.name}",
        }
        if item.kind == "flag":
            return gr.Checkbox(bool(item.default), **common)
        if item.kind == "choice":
            return gr.Dropdown(list(item.choices), value=item.default, **common)
        if item.kind in ("path", "paths"):
            gr.HTML(f'<p class="fv-dim">{html.escape(common.pop("info"))}</p>', padding=True, elem_classes="fv-plain")
            common["file_count"] = "multiple" if item.kind == "paths" else "single"
            return gr.File(type="filepath", height=130, **common)
        # Numbers too: an empty field means "not set", which a number field cannot say.
        return gr.Textbox("" if item.default is None else str(item.default), **common)

    # ------------------------------------------------------------------ what happens

    def on_select(self, request: gr.Request) -> Any:
        """The files of now; the one sent here is chosen."""
        owner = self._owner(request)
        choices = [(title, value) for title, value, _ in known_files(self._service, owner)]
        wanted = self._service.sent_to_toolbox.pop(owner, None)
        return gr.update(choices=choices, value=wanted) if wanted else gr.update(choices=choices)

    def _run(
        self, request: gr.Request, path: str | None, earlier: str | None, current: Steps, values: tuple[Any, ...]
    ) -> None:
        owner, rest = self._owner(request), list(values)
        named = []
        try:
            for step in current:
                tool = TOOLS[step["name"]]
                named.append((tool.name, {item.name: self._checked(item, rest.pop(0)) for item in tool.parameters}))
            found = {value: file for _, value, file in known_files(self._service, owner)}
            source = Path(path) if path else found.get(earlier or "")
            if source is None:
                raise InputError("there is no file to work on: drop one or choose an earlier one")
            if path:
                self._checked_file(path)
            submit_tools(self._service, source, named, owner)
        except FlashVSRError as error:
            raise gr.Error(str(error), title="Cannot start") from error
        gr.Info("The job is in the queue")

    def _checked(self, item: Parameter, value: Any) -> Any:
        if item.kind in ("path", "paths") and value:
            for file in value if isinstance(value, list) else [value]:
                self._checked_file(file)
        return value

    def _checked_file(self, file: str) -> None:
        if not inside(Path(file), [self._service.uploads]):
            raise InputError("only uploaded files can be used")

    def _owner(self, request: gr.Request) -> str:
        return "" if self._service.local else user_of(request.headers)[0]


_KINDS = {"filter": "filter", "output": "writes the result", "report": "report"}


def _with_step(now: Steps, name: str) -> Steps:
    """Reports stand alone; whatever writes the result comes last."""
    fresh = {"name": name, "key": f"s{max((int(s['key'][1:]) for s in now), default=0) + 1}"}
    if TOOLS[name].kind == "report":
        return [fresh]
    kept = [step for step in now if TOOLS[step["name"]].kind != "report"]
    ends = [step for step in kept if TOOLS[step["name"]].kind == "output"]
    filters = [step for step in kept if step not in ends]
    return [*filters, fresh] if TOOLS[name].kind == "output" else [*filters, fresh, *ends]


def _moved(now: Steps, at: int) -> Steps:
    """Step ``at`` one place earlier."""
    order = list(now)
    if 0 < at < len(order):
        order[at - 1], order[at] = order[at], order[at - 1]
    return order
