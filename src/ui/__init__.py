"""The browser app: a page over ``upscale_file``, a queue that survives a restart, and one worker process.

The server never loads a model: ``worker`` does, in a process of its own, so that a crash of the model or the
driver leaves the page alive. ``store`` keeps the jobs, ``supervisor`` feeds them to the worker, ``routes`` gives
their state to the script of the page, ``page`` and the ``tab_*`` modules build what a person sees.
"""
