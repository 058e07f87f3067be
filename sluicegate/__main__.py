"""`python -m sluicegate`: the command line."""

from sluicegate.cli import main

raise SystemExit(main())
