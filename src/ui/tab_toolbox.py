"""The Toolbox tab."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from src.errors import FlashVSRError
from src.ui.facts import facts_of
from src.ui.service import Service


def build_toolbox_tab(service: Service) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            file = gr.File(label="Clip to analyse", file_count="single", type="filepath", elem_id="toolbox-file")
        with gr.Column(min_width=300):
            table = gr.Dataframe(
                headers=["Fact", "Value"], interactive=False, label="Analysis", elem_id="toolbox-table"
            )

    def on_file(path: str | None) -> list[list[str]]:
        if not path:
            return []
        try:
            return [list(row) for row in facts_of(Path(path), "video").rows]
        except FlashVSRError as error:
            raise gr.Error(str(error).replace(f"{Path(path).parent}/", ""), title="Cannot be analysed") from error

    file.change(on_file, file, table, api_visibility="private")
