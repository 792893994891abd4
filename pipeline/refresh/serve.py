"""``python -m pipeline.refresh.serve``: keep a schedule going with Prefect 3 (extra ``schedule``).

Without ``PREFECT_API_URL`` Prefect starts a server of its own for as long as this runs; with it the
runs show up in that server's UI (``prefect server start``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pipeline import cli
from pipeline.refresh.job import read_schedule
from pipeline.spec.errors import BadRequest


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Options of the command line."""
    p = cli.parser("python -m pipeline.refresh.serve",
                   "Refresh the maps of a schedule by the clock, with Prefect 3.")
    p.add_argument("--config", required=True, type=Path, metavar="FILE",
                   help="the schedule, TOML; aoi/schedule.toml is an example")
    p.add_argument("--cron", default="0 3 * * *", metavar="EXPR",
                   help="when, in the server's UTC (default 0 3 * * *)")
    p.add_argument("--once", action="store_true", help="one round now, then leave")
    return p.parse_args(argv)


def command(argv: Sequence[str]) -> int:
    """Carry out one command line; returns its exit code."""
    args = parse(argv)
    if find_spec("prefect") is None:
        raise BadRequest("this needs Prefect 3", then="pip install 'wallmap[schedule]', or let "
                         "cron run python -m pipeline.refresh")
    read_schedule(args.config)  # better now than at three in the morning
    from pipeline.refresh.flow import refresh_schedule

    parameters = {"config": str(args.config.resolve())}
    if args.once:
        results = refresh_schedule(**parameters)
        if args.json:
            cli.emit({"exit_code": 0, "results": results})
    else:
        refresh_schedule.serve(name=args.config.stem, cron=args.cron, parameters=parameters)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(command))
