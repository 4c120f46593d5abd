"""`python -m mova`."""

from mova.cli.exits import run_and_exit


def command() -> int:
    from mova.cli.main import main  # only here can a stop be answered with a sentence

    return main()


if __name__ == "__main__":
    run_and_exit(command)
