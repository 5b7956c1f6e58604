"""`python -m hpcdiff.maps {info,verify,clear,import} ...`: looking after map files."""

from __future__ import annotations

import signal
import sys
import traceback

from hpcdiff.errors import UserError, disk_error, reader_left
from hpcdiff.maps.verbs import run_verb

USAGE = """usage: python -m hpcdiff.maps info FILE           what is in a map file
       python -m hpcdiff.maps verify FILE         are its maps as they were written? names the damaged views
       python -m hpcdiff.maps clear FILE [--rows 5,17] [--halos 12,13]
                                                  marks the damaged (or the named) views; the next project computes them again
       python -m hpcdiff.maps import IMPORT.yaml [key=value ...] [--dry-run] [--overwrite]
                                                  a map file from .npy or FITS images and a catalogue (docs/maps.md)"""
DONE, FAULT, USER, STOPPED = 0, 1, 2, 75


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 2 the input or the file is at fault, 75 stopped, 1 a fault of ours."""
    argv = sys.argv[1:] if argv is None else argv
    if "-h" in argv or "--help" in argv:
        print(USAGE)
        return DONE
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: leave in good order
    try:
        for line in run_verb(argv):
            print(line, flush=True)
    except KeyboardInterrupt:
        print("hpcdiff maps: stopped: what is whole is kept; run the same command again", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        return reader_left()
    except BaseException as error:
        said = str(error) if isinstance(error, UserError) else disk_error(error)
        if said is None:
            traceback.print_exc()
            return FAULT
        print(f"hpcdiff maps: error: {said}", file=sys.stderr)
        return USER
    finally:
        signal.signal(signal.SIGTERM, before)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
