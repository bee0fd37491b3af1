"""A process that pulls a locked image: for the test that kills it.

`python -m tests.sources.pulling FOLDER LOCKED_IMAGE.json` fetches into FOLDER/tree with FOLDER/work.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bundler.core.specs.lock import LockedImage
from bundler.sources.fetch import fetch_all
from bundler.sources.images.images import image_jobs
from bundler.sources.images.registry_auth import DockerConfig
from bundler.sources.retry import RetryPolicy
from bundler.storage.payload import PayloadStore


def main(folder: Path, locked: Path) -> None:
    """Fetches everything, or raises."""
    image = LockedImage.model_validate_json(locked.read_bytes())
    with PayloadStore(folder / "tree", folder / "work") as store:
        jobs = image_jobs([image], config=DockerConfig())
        fetch_all(jobs, store, workers=2, retries=RetryPolicy(first=0.05, tries=3))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
