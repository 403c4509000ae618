"""``python -m slideduck.runner train ...``, and ``torchrun -m slideduck.runner train ...``."""

from slideduck.runner.cli.main import main

if __name__ == "__main__":
    main()
