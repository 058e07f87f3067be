"""The command table: cheap to start, honest in its exit codes, silent about the rest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sluicegate.cli.main import COMMANDS, Command, build_app, run
from sluicegate.errors import ConfigurationError


def test_the_first_help_imports_no_client_library() -> None:
    """Start-up stays fast because nothing heavy is loaded before a command is chosen."""
    program = (
        "import sys\n"
        "sys.argv = ['sluicegate', '--help']\n"
        "from sluicegate.cli import main\n"
        "assert main() == 0\n"
        "heavy = {'confluent_kafka', 'aiokafka', 'faust', 'redis', 'httpx', 'aiohttp', "
        "'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )

    assert done.stderr.strip() == "[]"
    assert all(command.name in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_an_options_help_is_one_line(command: Command) -> None:
    """A line break in a docstring would stand in the middle of what `--help` wraps by itself."""
    place = Path(__file__).parents[2] / "sluicegate" / "cli" / command.name
    source = (place / "command.py" if place.is_dir() else place.with_suffix(".py")).read_text("utf-8")
    _, heading, parameters = source.partition("    Parameters\n    ----------\n")
    assert heading, "no parameter has help"
    broken = re.findall(r"^    ([a-z_]+)\n {8}.+\n {8}", parameters.partition('"""')[0], re.MULTILINE)
    assert broken == []


def test_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage is exit code 2, says what was meant, and leaves stdout to data."""
    app = build_app()

    @app.command(name="count")
    def count(*, limit: int = 0) -> None:
        """Do nothing."""

    with pytest.raises(SystemExit) as left:
        run(app, ["count", "--limti", "3"])

    captured = capsys.readouterr()
    assert left.value.code == 2
    assert captured.out == ""
    assert "--limit" in captured.err


def test_own_errors_become_one_line_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    """An error of ours needs no traceback: its message says what to do next."""
    app = build_app()

    @app.command(name="break")
    def fail() -> None:
        raise ConfigurationError("[kafka] group is empty: set it")

    code = run(app, ["break"])

    captured = capsys.readouterr()
    assert code == 1
    assert captured.out == ""
    assert captured.err == "sluicegate: [kafka] group is empty: set it\n"


@pytest.mark.parametrize(("answer", "code"), [(None, 0), (0, 0), (1, 1)])
def test_a_commands_integer_is_the_exit_code(answer: int | None, code: int) -> None:
    """A command says how it went by returning a number, or nothing when all is well."""
    app = build_app()

    @app.command(name="answer")
    def give() -> int | None:
        return answer

    assert run(app, ["answer"]) == code


def test_a_crash_is_told_without_the_values_in_it() -> None:
    """G7: what an exception quotes does not reach stderr, nor what it came from; places in the code do."""
    program = (
        "import sys, threading\n"
        "from sluicegate.cli import main\n"
        "def crash(app, arguments):\n"
        "    thread = threading.Thread(target=lambda: int('canary-in-a-thread'))\n"
        "    thread.start(); thread.join()\n"
        "    try: int('canary-cause')\n"
        "    except ValueError as exc: raise KeyError('canary-text') from exc\n"
        "sys.modules['sluicegate.cli.main'].run = crash\n"
        "main()\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 1
    assert done.stderr.count("this is a bug") == 2
    assert "KeyError" in done.stderr
    assert "ValueError" in done.stderr
    assert "canary" not in done.stderr
