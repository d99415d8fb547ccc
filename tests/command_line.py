"""The command line, called as a user would."""

import json

from click.testing import CliRunner

from nuratio.cli.main import cli


def run(*arguments, code=0, stdin=None):
    """Its JSON, or what it says on stderr where it is to end with another exit code."""
    result = CliRunner().invoke(cli, [str(a) for a in arguments], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout) if code == 0 else result.stderr
