"""The command table."""


def main() -> None:
    """Run the command line."""
