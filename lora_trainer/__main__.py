"""The trainer's command line: `python -m lora_trainer COMMAND`. Commands live in modules of their own."""

import argparse
import logging
import sys

from lora_trainer import adapter_commands, regularization
from lora_trainer import commands as training
from mova.errors import BackendError, UserError, printable

EXIT_CODES = "Exit codes: 0 done; 1 the machine or a server failed; 2 cannot be done as asked; 130 stopped."
COMMANDS = (training, regularization, adapter_commands)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m lora_trainer", epilog=EXIT_CODES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_command(commands)
    options = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        return options.run(options)
    except UserError as error:
        sys.stderr.write(f"error: {printable(str(error), lines=True)}\n")
        return 2
    except BackendError as error:
        sys.stderr.write(f"failed: {printable(str(error), lines=True)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
