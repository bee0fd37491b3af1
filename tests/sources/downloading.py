"""A process that downloads: for tests that kill it, interrupt it or measure it.

`python -m tests.sources.downloading FOLDER JOBS.json` fetches `[{"path", "size", "sha256", "url"}]` into
FOLDER/tree with FOLDER/work, then prints its peak resident memory in KiB.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bundler.errors import SealiftError
from bundler.sources.fetch import fetch_all
from bundler.sources.http import HttpByteSource, session
from bundler.sources.jobs import FetchJob
from bundler.sources.retry import RetryPolicy
from bundler.storage.payload import PayloadStore
from tests.peak_memory import peak_kibibytes


def main(folder: Path, jobs_file: Path) -> int:
    """0 when all was fetched, the error's exit code otherwise, 130 when interrupted."""
    shared = session()
    jobs = [
        FetchJob(
            path=job["path"],
            size=job["size"],
            sha256=job["sha256"],
            source=HttpByteSource(url=job["url"], size=job["size"], session=shared),
        )
        for job in json.loads(jobs_file.read_text())
    ]
    try:
        with PayloadStore(folder / "tree", folder / "work") as store:
            fetch_all(jobs, store, workers=4, retries=RetryPolicy(first=0.05, tries=3))
    except KeyboardInterrupt:
        return 130
    except SealiftError as error:
        print(error.findings[0].to_json())
        return int(error.exit_code)
    print(peak_kibibytes())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
