"""The HTTP server of the page: Gradio's, with our routes and our guard around it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware

from src.errors import InputError
from src.ui.page import launch_arguments, make_page
from src.ui.routes import make_routes
from src.ui.security import Guard
from src.ui.service import Service


class Server:
    """Start it, wait, close it. ``users``: passwords by name; none: the page is for this computer only.

    ``fixed``: settings given on the command line.
    """

    def __init__(self, data: Path, users: dict[str, str], fixed: dict[str, str] | None = None) -> None:
        self._users = users
        self.service = Service(data, local=not users, fixed=fixed)
        self._page = make_page(self.service)

    def start(self, host: str, port: int, max_upload: str, *, share: bool = False, browser: bool = False) -> str:
        """Serve in the background. Returns the address. InputError if the port is taken."""
        app_arguments: dict[str, Any] = {
            "routes": make_routes(self.service),
            "middleware": [Middleware(Guard, users=self._users)],
        }
        try:
            _, local, public = self._page.launch(
                server_name=host,
                server_port=port,
                share=share,
                inbrowser=browser,
                prevent_thread_lock=True,
                quiet=True,
                show_error=True,
                max_file_size=max_upload,
                ssr_mode=False,
                app_kwargs=app_arguments,
                **launch_arguments(self.service),
            )
        except OSError as error:
            raise InputError(f"port {port} cannot be used ({error}); choose another with --port") from error
        self.service.start()
        return public or local

    def wait(self) -> None:
        """Until Ctrl-C."""
        threading.Event().wait()

    def close(self) -> None:
        self._page.close()
        self.service.close()
