"""The Settings tab: folders, theme, default preset, and the models with their downloads."""

from __future__ import annotations

import html
from collections.abc import Callable

import gradio as gr

from src.errors import FlashVSRError
from src.hub import find
from src.releases import RELEASES, get_release, needed
from src.ui.facts import bytes_text
from src.ui.presets import PRESETS
from src.ui.security import user_of
from src.ui.service import Service
from src.ui.settings import THEMES, Settings

_THEME_JS = "(theme) => window.flashvsr.theme(theme)"


def build_settings_tab(service: Service, tab: gr.Tab, on_saved: Callable[[], None]) -> Callable[[], None]:
    """Returns what brings the widgets of fresh pages up to date. ``on_saved``: called when settings were saved."""
    now = service.settings.current
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            gr.HTML("<h3>Settings</h3>")
            output = _folder(service, "output_folder", "Output folder", "set-output")
            models = _folder(service, "models_folder", "Models folder", "set-models")
            theme = gr.Radio(list(THEMES), value=now.theme, label="Theme", elem_id="set-theme")
            preset = gr.Radio(list(PRESETS), value=now.preset, label="Preset of a fresh page", elem_id="set-preset")
            save = gr.Button("Save settings", variant="primary", elem_id="set-save")
            gr.HTML(f'<p class="fv-dim">Kept in {html.escape(str(service.settings.path))}</p>')
        with gr.Column(min_width=300):
            gr.HTML("<h3>Models</h3>")
            table = gr.HTML(models_text(service), elem_id="models-table")
            choices = [release.name for release in RELEASES.values() if release.embedded is None]
            release = gr.Radio(choices, value=choices[-1], label="Release to download", elem_id="download-release")
            large = gr.Checkbox(False, label="With the large decoder (for the mode full)", elem_id="download-full")
            button = gr.Button("Download", elem_id="download-run")
            gr.HTML('<section id="live-download" aria-label="Download"></section>')

    def on_save(output_folder: str, models_folder: str, theme: str, preset: str) -> str:
        current = service.settings.current
        if not service.local:
            output_folder, models_folder = current.output_folder, current.models_folder
        try:
            service.settings.save(Settings(output_folder.strip(), models_folder.strip(), theme, preset))
        except FlashVSRError as error:
            raise gr.Error(str(error), title="Not saved") from error
        on_saved()
        gr.Info("Settings are saved")
        return models_text(service)

    def on_download(request: gr.Request, name: str, large: bool) -> None:
        owner = "" if service.local else user_of(request.headers)[0]
        mode = "full" if large else "tiny"
        _, missing = find(get_release(name), mode, service.settings.current.models)
        if not missing:
            gr.Info(f"{name} is complete already")
            return
        params = {"release": name, "mode": mode, "models_dir": str(service.settings.current.models)}
        service.submit_other("download", f"Download of {name}", params, owner, "download")

    def refresh() -> None:
        current = service.settings.current
        output.value, models.value = current.output_folder, current.models_folder
        theme.value, preset.value = current.theme, current.preset

    tab.select(lambda: models_text(service), None, table, show_progress="hidden", api_visibility="private")
    theme.input(None, theme, None, js=_THEME_JS)
    save.click(on_save, [output, models, theme, preset], table, api_visibility="private")
    button.click(on_download, [release, large], None, api_visibility="private").success(
        None, js="() => window.flashvsr.started()"
    )
    return refresh


def _folder(service: Service, name: str, label: str, element: str) -> gr.Textbox:
    """Whoever comes over the network may not choose where this computer writes, nor change the command line's word."""
    fixed = name in service.settings.fixed
    return gr.Textbox(
        getattr(service.settings.current, name),
        label=label,
        info="given on the command line" if fixed else None,
        interactive=service.local and not fixed,
        elem_id=element,
    )


def models_text(service: Service) -> str:
    """What is here, what is missing, how large it is."""
    rows = []
    for release in RELEASES.values():
        mode = "tiny"
        _, missing = find(release, mode, service.settings.current.models)
        size = sum(file.bytes or 0 for file in needed(release, mode))
        unknown = any(file.bytes is None for file in needed(release, mode) if file.part != "prompt")
        if release.embedded is not None:
            state = "embedded, always works, no GPU needed"
        elif not missing:
            state = "here"
        else:
            state = f"missing: {', '.join(file.name for file in missing)}; needs a GPU"
        about = "" if unknown else f" ({bytes_text(size)})"
        rows.append(f"<dt>{release.name}{about}</dt><dd>{html.escape(state)}</dd>")
    return f'<dl class="fv-facts">{"".join(rows)}</dl>'
