"""`python -m dpbench.cli`, as `dpbench`."""

from dpbench.cli.app import main

main()
