"""What commands on jobs have in common: the argument JOB, and the options that say where the jobs are.

May import typer and the place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..exits import EXIT_INTERRUPTED
from ..place import Place

_PREFIX = "place_"
LocalOption = Annotated[bool, typer.Option("--local", help="Local runs, even when $KUBECONFIG is set.")]
KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", metavar="FILE", help="A cluster: its kubeconfig [default: $KUBECONFIG].")
]
ContextOption = Annotated[str, typer.Option("--context", metavar="NAME", help="A cluster: context of the kubeconfig.")]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", metavar="NAME", help="A cluster: namespace [default: the context's].")
]
EndpointOption = Annotated[
    str,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="The S3 server as it is reached from here, for a job of a cluster or a URI [default: $AWS_ENDPOINT_URL].",
    ),
]


def complete_job(incomplete: str) -> list[str]:
    """The ids of local runs, for the shell; quick, so it asks no cluster."""
    from ..jobs.run_folder import run_ids

    return [name for name in reversed(run_ids()) if name.startswith(incomplete)]


JobArgument = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="A run's id or the newest of a job's name; in a cluster: the job's.",
        autocompletion=complete_job, show_default=False,
    ),
]  # fmt: skip


def on_place(*, endpoint: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """For a command with the parameter `place`: the options of a place stand there, with `endpoint` also --endpoint.

    Ctrl-C ends it with the exit code that says so.
    """

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        options = _options(endpoint)
        parameters: dict[str, inspect.Parameter] = {}
        for name, own in inspect.signature(command, eval_str=True).parameters.items():
            parameters |= options if name == "place" else {name: own.replace(kind=inspect.Parameter.KEYWORD_ONLY)}

        def run(**given: Any) -> None:
            where = {name.removeprefix(_PREFIX): given.pop(name) for name in options}
            try:
                command(place=Place(**where), **given)
            except KeyboardInterrupt:
                raise typer.Exit(EXIT_INTERRUPTED) from None

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        # Typer reads these two.
        run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
        return run

    return wrap


def _options(endpoint: bool) -> dict[str, inspect.Parameter]:
    """One for each field of Place, by a name that no parameter of a command has."""
    found = {
        "local": LocalOption, "kubeconfig": KubeconfigOption, "context": ContextOption, "namespace": NamespaceOption
    } | ({"endpoint": EndpointOption} if endpoint else {})  # fmt: skip
    defaults = Place()
    return {
        _PREFIX + field: inspect.Parameter(
            _PREFIX + field, inspect.Parameter.KEYWORD_ONLY, default=getattr(defaults, field), annotation=option
        )
        for field, option in found.items()
    }
