"""Every command that writes is killed, starved and misled, and then has to finish: ``python -m tests.killing``."""
