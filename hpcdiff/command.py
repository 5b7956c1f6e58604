"""Commands beside the stages (`maps`, `sweep`): print their lines as they come, and end with the contract's exit statuses."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Iterable

from hpcdiff.errors import Stopped, UserError, disk_error, reader_left
from hpcdiff.launch import DONE, FAULT, STOPPED, USER


def run_command(name: str, usage: str, work: Callable[[list[str]], Iterable[str]], argv: list[str] | None, stopped: str = "") -> int:
    """Run one command; returns its exit status: 0 done, 2 the user's input is at fault, 75 stopped, 1 a fault of ours.

    Args:
        name: the command, for messages. usage: what `--help` prints.
        work: arguments -> lines to print; may raise UserError, Stopped.
        argv: the command line without the program; None = sys.argv.
        stopped: what to say after Ctrl-C or SIGTERM.
    """
    argv = sys.argv[1:] if argv is None else argv
    if "-h" in argv or "--help" in argv:
        print(usage)
        return DONE
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: leave in good order
    try:
        for line in work(argv):
            print(line, flush=True)
    except (Stopped, KeyboardInterrupt) as error:
        print(f"hpcdiff {name}: stopped: {str(error) or stopped}", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        return reader_left()
    except BaseException as error:
        said = str(error) if isinstance(error, UserError) else disk_error(error)
        if said is None:
            traceback.print_exc()
            return FAULT
        print(f"hpcdiff {name}: error: {said}", file=sys.stderr)
        return USER
    finally:
        signal.signal(signal.SIGTERM, before)
    return DONE
