"""The page: tabs, theme, script and style."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from src.config import VERSION
from src.ui.routes import STATIC
from src.ui.service import Service
from src.ui.tab_media import MediaTab
from src.ui.tab_settings import build_settings_tab
from src.ui.tab_toolbox import ToolboxTab

_HEADER = f"""<div class="fv-top"><h1>FlashVSR+<small>video super-resolution, {VERSION}</small></h1>
<div id="fv-monitor" role="status" aria-label="Load of the machine"></div></div>"""
_QUEUE = """<h2>Now</h2><ul class="fv-list" id="fv-queue" aria-label="Running and waiting jobs"></ul>
<h2>History</h2><ul class="fv-cards" id="fv-history" aria-label="Finished jobs"></ul>"""


def make_theme() -> gr.themes.Base:
    """System fonts: nothing is fetched from elsewhere."""
    sans = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
    mono = ["ui-monospace", "Consolas", "monospace"]
    theme = gr.themes.Soft(primary_hue="indigo", neutral_hue="stone", font=sans, font_mono=mono)
    # Titles as plain words, and grey text that can be read: 4.5 to 1 or more in both themes.
    return theme.set(
        body_background_fill="*neutral_50",
        block_background_fill="white",
        block_border_width="1px",
        block_shadow="none",
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_padding="0",
        block_label_background_fill="none",
        block_label_background_fill_dark="none",
        block_label_text_color="*body_text_color",
        block_label_text_color_dark="*body_text_color",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
    )


def make_page(service: Service) -> gr.Blocks:
    """The page over ``service``; nothing runs until it is launched."""
    # Uploads that no job took are removed a day after they came.
    with gr.Blocks(title="FlashVSR+", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as page:
        gr.HTML(_HEADER)
        if service.settings.problem:
            gr.HTML(lambda: _problem(service))
        media = [MediaTab(service, "video"), MediaTab(service, "image")]
        with gr.Tabs():
            for tab in media:
                with gr.Tab(tab.media.capitalize(), id=tab.media):
                    tab.build()
            with gr.Tab("Queue", id="queue"):
                gr.HTML(_QUEUE)
            with gr.Tab("Toolbox", id="toolbox") as toolbox:
                ToolboxTab(service).build(page, toolbox)
            with gr.Tab("Settings", id="settings") as settings:
                refresh_settings = build_settings_tab(service, settings, lambda: refresh())

    def refresh() -> None:
        """Pages that are opened from now on have the settings of now in them: nothing changes under the hand."""
        for tab in media:
            tab.refresh()
        refresh_settings()
        page.config = page.get_config_file()

    service.on_models = refresh  # the preset Best has its large decoder from then on
    return page


def launch_arguments(service: Service) -> dict[str, Any]:
    """What ``launch`` needs for the look of the page."""
    theme = json.dumps(service.settings.current.theme)
    head = (
        f"<script>window.flashvsrTheme = {theme}</script>"
        '<script type="module" src="app/static/app.js"></script>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    return {"theme": make_theme(), "css_paths": [STATIC / "app.css"], "head": head, "footer_links": []}


def _problem(service: Service) -> str:
    import html

    text = service.settings.problem
    return f'<p class="fv-error" role="alert">{html.escape(text)}</p>' if text else ""
