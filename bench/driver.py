"""Run `ct-etl` in this process and write what this process alone took: ``driver.py RESULT.json ARGUMENTS...``.

With worker processes, that is the driver and Dask's scheduler.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from etl.cli import main


def measured() -> None:
    """Run the command, then tell what `getrusage` counts for this process."""
    result, *arguments = sys.argv[1:]
    status = 0
    try:
        main(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    own = resource.getrusage(resource.RUSAGE_SELF)
    figures = {"cpu_s": own.ru_utime + own.ru_stime, "peak_mb": own.ru_maxrss * 1024 / 1e6}
    Path(result).write_text(json.dumps(figures))
    sys.exit(status)


# Workers are started by spawning, which imports this file again.
if __name__ == "__main__":
    measured()
