"""``python -m slideduck`` is the command ``slideduck``."""

from slideduck.cli.group import cli

if __name__ == "__main__":
    cli()
