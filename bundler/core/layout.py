"""Where everything is stored inside a bundle: every `payload/...` path of format.md section 1, once.

Paths are relative POSIX paths without a trailing slash. Also runs in `verify.pyz`: Python 3.9.
"""

from __future__ import annotations

MANIFEST = "manifest.json"
PAYLOAD = "payload"
ATTESTATIONS = "attestations"

CHUNKS = "payload/chunks.sha256"

MODELS = "payload/models"
WHEELS = "payload/wheels"
WHEEL_LOCKS = "payload/wheels/locks"
TOOLS = "payload/tools"
IMAGES = "payload/images"
IMAGE_BLOBS = "payload/images/blobs/sha256"

EVIDENCE = "payload/evidence"
FILES = "payload/files"
LICENSES = "payload/licenses"
RECORDS = "payload/records"
DOCUMENTS = "payload/records/documents"
LOCK_RECORD = "payload/records/lock.json"
SPEC_RECORD = "payload/records/spec.yaml"


def is_below(path: str, folder: str) -> bool:
    """Whether `path` names something inside `folder`, not the folder itself."""
    return path.startswith(f"{folder}/")


def repository_name(repo: str) -> str:
    """The folder name of a model repository as the Hub's cache writes it: `models--<org>--<name>`."""
    return f"models--{repo.replace('/', '--')}"


def model_folder(repo: str) -> str:
    """The folder of a model repository, which holds `refs/` and `snapshots/`."""
    return f"{MODELS}/{repository_name(repo)}"


def snapshot_folder(repo: str, commit: str) -> str:
    """The folder with a model's files at one commit."""
    return f"{model_folder(repo)}/snapshots/{commit}"


def model_evidence_folder(repo: str) -> str:
    """The folder with signature files of a model repository that are not part of the model itself."""
    return f"{EVIDENCE}/{repository_name(repo)}"


def image_blob(digest: str) -> str:
    """The path of an image blob; `digest` is `sha256:<64 hex>`."""
    return f"{IMAGE_BLOBS}/{digest.partition(':')[2]}"
