"""Output of the commands: text for people, or JSON alone."""

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.")]

CHECK_INTERVAL_S = 2.0


def console(quiet: bool = False, stderr: bool = False) -> Any:
    """Return a rich console that prints to stdout or stderr, or nothing if `quiet`.

    Lines are not wrapped and `:shoe:` stays as it is, so that a path in the output can be copied, or read by a script.
    """
    from rich.console import Console

    return Console(quiet=quiet, stderr=stderr, soft_wrap=True, emoji=False)


def bold(value: object) -> str:
    """Return a value as rich markup in bold; square brackets in it, as paths may have, stay as they are."""
    from rich.markup import escape

    return f"[bold]{escape(str(value))}[/bold]"


def print_json(enabled: bool, value: Any) -> None:
    """Print a value as JSON, if enabled."""
    if enabled:
        typer.echo(json.dumps(value, ensure_ascii=False))


def wait_until_interrupted(address: str, check: Callable[[], None]) -> None:
    """Print the address of a service, and return at Ctrl-C or SIGTERM.

    Args:
        address: of the service.
        check: called every few seconds; raises an error that ends the wait.
    """
    import contextlib
    import signal
    import threading

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console().print(f"\nserving on {bold(address)} – open it in a browser; Ctrl-C ends it")
    with contextlib.suppress(KeyboardInterrupt):
        while not threading.Event().wait(CHECK_INTERVAL_S):
            check()
