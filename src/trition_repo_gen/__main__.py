"""`python -m trition_repo_gen` is `trgen`."""

from trition_repo_gen.cli import main

main()
