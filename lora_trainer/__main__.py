"""The trainer's command line: `python -m lora_trainer COMMAND`. Commands live in modules of their own."""

import argparse
import logging

from mova.cli.exits import EXIT_CODES, run_and_exit, run_command


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    # Here a stop has its sentence.
    from lora_trainer import adapter_commands, commands, regularization
    from lora_trainer.distillation import commands as distillation

    parser = argparse.ArgumentParser(prog="python -m lora_trainer", epilog=EXIT_CODES)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (commands, distillation, regularization, adapter_commands):
        module.add_command(subparsers)
    options = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    return run_command(lambda: options.run(options))


if __name__ == "__main__":
    run_and_exit(main)
