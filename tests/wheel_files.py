"""Small wheels made for tests: right by default, wrong in exactly the way a test asks for."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def record_line(path: str, data: bytes) -> str:
    """One row of RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(data)}\n"


def wheel_members(
    project: str,
    version: str,
    *,
    files: Mapping[str, bytes] | None = None,
    tags: str = "py3-none-any",
    requires: Sequence[str] = (),
    stated: tuple[str, str] | None = None,
) -> dict[str, bytes]:
    """Path to bytes of a right wheel; `stated` is the project and version METADATA says, when others."""
    module = project.replace("-", "_")
    name, told = stated or (project, version)
    folder = f"{module}-{version}.dist-info"
    members = dict(files if files is not None else {f"{module}/__init__.py": b"answer = 42\n"})
    needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
    members[f"{folder}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {told}\n{needs}".encode()
    lines = "".join(f"Tag: {tag}\n" for tag in _expanded(tags))
    members[f"{folder}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n{lines}".encode()
    )
    record = "".join(record_line(path, data) for path, data in members.items())
    members[f"{folder}/RECORD"] = f"{record}{folder}/RECORD,,\n".encode()
    return members


def _expanded(tags: str) -> list[str]:
    pythons, abis, platforms = (part.split(".") for part in tags.split("-"))
    return [f"{one}-{two}-{three}" for one in pythons for two in abis for three in platforms]


def packed(members: Mapping[str, bytes] | Sequence[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    """The members as a deflated archive, in the given order; a sequence may repeat names."""
    pairs = list(members.items()) if isinstance(members, Mapping) else list(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in pairs:
            info = zipfile.ZipInfo(name) if isinstance(name, str) else name
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return buffer.getvalue()


def wheel(
    project: str,
    version: str,
    *,
    tags: str = "py3-none-any",
    files: Mapping[str, bytes] | None = None,
    requires: Sequence[str] = (),
) -> tuple[str, bytes]:
    """File name and bytes of a right wheel."""
    members = wheel_members(project, version, files=files, tags=tags, requires=requires)
    return f"{project.replace('-', '_')}-{version}-{tags}.whl", packed(members)


def write_wheel(folder: Path, project: str, version: str, **options: object) -> Path:
    """A right wheel in `folder`."""
    name, data = wheel(project, version, **options)  # type: ignore[arg-type]
    (folder / name).write_bytes(data)
    return folder / name
