"""`python -m snakepit_bridge`: one worker process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Optional

from snakepit_bridge._cli.choice import grpc_server
from snakepit_bridge._cli.loading import load_commands, start
from snakepit_bridge._errors.call_error import limit_errors
from snakepit_bridge._errors.exits import StartError
from snakepit_bridge._process import lifeline, logs, terminal
from snakepit_bridge._process.options import Options, parse
from snakepit_bridge._process.parent import Parent
from snakepit_bridge._threads.hook_runner import HookRunner
from snakepit_bridge._types.arrow import as_arrow
from snakepit_bridge._types.encoders import encode_frames_by, mark_unencodable


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Serves calls until SIGTERM; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] in (["call"], ["commands"]):
        from snakepit_bridge._cli import shell

        return shell.main(arguments)
    options = parse(arguments)
    mark_unencodable(mark=options.unencodable == "marker")
    limit_errors(options.max_message_size)
    encode_frames_by(as_arrow if options.frames == "arrow" else None)
    parent = Parent()
    has_parent = parent.is_beam or options.stdio
    watched = lifeline.bind_to_parent() if has_parent else False
    init = lifeline.read_message() if options.init_from_stdin else None
    pipes = lifeline.take_stdio() if options.stdio else None
    if parent.is_beam and not options.stdio:
        lifeline.take_lifeline(watched=watched)
    if has_parent:
        terminal.set_up()
    logs.set_up(prefixed=has_parent, level=options.log_level)
    try:
        if pipes is not None:
            return _serve_stdio(options, pipes, init)
        return _serve(options, parent, init)
    except StartError as error:
        print(f"snakepit_bridge: {error}", file=sys.stderr)
        return error.exit_code


def _serve(options: Options, parent: Parent, init: Optional[bytes]) -> int:
    from snakepit_bridge._process.listening import Listening

    run = grpc_server(options.server)
    registry = load_commands(options.adapter, options.import_path, init)
    logs.yield_to_user(prefixed=parent.is_beam)
    listening = Listening(options, parent)
    hooks = HookRunner(registry.hooks)
    start(hooks, options.adapter)
    return run(registry, hooks, options, parent, listening)


def _serve_stdio(options: Options, pipes: tuple[int, int], init: Optional[bytes]) -> int:
    from snakepit_bridge._servers import stdio

    registry = load_commands(options.adapter, options.import_path, init)
    logs.yield_to_user(prefixed=True)
    hooks = HookRunner(registry.hooks)
    start(hooks, options.adapter)
    return stdio.run(registry, hooks, options, pipes)
