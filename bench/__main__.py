"""`python -m bench` is `gkdbench`."""

from bench.cli import main

main(prog_name="gkdbench")
