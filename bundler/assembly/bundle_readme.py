"""`README.md` of a bundle: what it is and how to check it, with the real names and digests filled in."""

from __future__ import annotations

from collections.abc import Iterable

from bundler import __version__
from bundler.content.system_libraries import needs_lines
from bundler.core.specs.lock import Lock
from bundler.core.units import format_bytes

_TEXT = """# {name} {serial} ({channel})

A sealed bundle: model weights, engine wheels, container images and their records, listed with their SHA-256
in `manifest.json` and signed in `attestations/`. Built with sealift {version} from the lock
`sha256:{lock}`.

## What is inside

{contents}

{libraries}## Check it, then use it

With sealift installed in the perimeter and your organisation's own trust policy (never one that came along):

```sh
sealift verify . --policy /etc/sealift/trust/policy.json
sealift install . --policy /etc/sealift/trust/policy.json --engine ENGINE --to /srv/sealift/ENGINE
sealift launch . --policy /etc/sealift/trust/policy.json --profile PROFILE --env /srv/sealift/ENGINE
```

{profiles}
No sealift there yet? `payload/tools` holds its wheels, pip and uv, for an offline installation:

```sh
{tools}
```

They are only as trustworthy as this bundle: check them first, with what you already have.

## Check it without sealift

1. Compare the SHA-256 of the manifest with the one the sender told you by another way (paper, telephone):

   ```sh
   sha256sum manifest.json
   ```

2. Check the release signature with the release key you already hold as `release.pub.pem` (needs `openssl` and
   `jq`; the last two lines must print the same digest):

   ```sh
   jq -r .dsseEnvelope.payload attestations/release.sigstore.json | base64 -d > /tmp/statement.json
   jq -r .dsseEnvelope.signatures[0].sig attestations/release.sigstore.json | base64 -d > /tmp/signature.der
   printf 'DSSEv1 28 application/vnd.in-toto+json %s ' "$(stat -c %s /tmp/statement.json)" > /tmp/signed.bin
   cat /tmp/statement.json >> /tmp/signed.bin
   openssl dgst -sha256 -verify release.pub.pem -signature /tmp/signature.der /tmp/signed.bin
   jq -r '.subject[0].digest.sha256' /tmp/statement.json
   sha256sum manifest.json | cut -d ' ' -f 1
   ```

3. Check every file:

   ```sh
   sha256sum --quiet -c SHA256SUMS
   jq -r '.files[] | select(.path == "SHA256SUMS") | "\\(.sha256)  \\(.path)"' manifest.json | sha256sum -c
   ```

   `sha256sum` does not notice files that are too many; sealift and `verify.pyz` do.

`verify.pyz` is the verifier as one file for `python3` 3.9 or later with nothing installed. Do not trust it
because it came along: its SHA-256 must be the one you received another way:

```sh
echo "{verify_pyz}  verify.pyz" | sha256sum -c
python3 -I verify.pyz . --policy /etc/sealift/trust/policy.json
```
"""


def render(lock: Lock, *, verify_pyz_sha256: str) -> bytes:
    """The README's bytes; the same lock and verifier give the same bytes."""
    profiles = "".join(
        f"- profile `{item.profile}`: `{item.served_name}` on {item.engine}\n" for item in lock.launch
    )
    return _TEXT.format(
        name=lock.name,
        serial=lock.serial,
        channel=lock.channel,
        version=__version__,
        lock=lock.sha256,
        contents="\n".join(_contents(lock)),
        libraries=_libraries(lock),
        profiles=f"Profiles in this bundle:\n\n{profiles}" if profiles else "",
        tools="\n".join(_tool_commands(lock)) or "# this bundle carries no engine, and so no tools",
        verify_pyz=verify_pyz_sha256,
    ).encode()


def _contents(lock: Lock) -> Iterable[str]:
    for model in lock.models:
        size = format_bytes(sum(item.size for item in model.files))
        yield f"- `{model.snapshot}`: {model.repo} at commit {model.commit}, {len(model.files)} files, {size}"
    for engine in lock.engines:
        size = format_bytes(sum(wheel.size for wheel in engine.wheels))
        wheels = f"{len(engine.wheels)} wheels, {size}"
        yield f"- `payload/wheels/locks/{engine.folder}`: {engine.requirement}, {wheels}"
    for image in lock.images:
        platforms = ", ".join(item.platform for item in image.platforms)
        yield f"- `payload/images`: {image.reference.split('@')[0]} at {image.digest} ({platforms})"
    for item in lock.files:
        yield f"- `{item.path}`: {item.title or item.kind}, {format_bytes(item.size)}"


def _libraries(lock: Lock) -> str:
    """What machines must have that no wheel brings; empty when nothing is known."""
    lines = []
    for engine in lock.engines:
        projects = [wheel.name for wheel in engine.wheels]
        lines += [f"- {engine.requirement}: {line}\n" for line in needs_lines(projects, engine.accelerator)]
    text = "## What the machines must have\n\nLibraries of the system, from this site's own mirror:\n\n"
    return f"{text}{''.join(lines)}\n" if lines else ""


def _tool_commands(lock: Lock) -> Iterable[str]:
    if lock.tools:
        pythons = " or ".join(sorted({tools.python for tools in lock.tools}))
        yield f"python3 -m venv /srv/sealift/tool     # CPython {pythons}"
        yield "/srv/sealift/tool/bin/python -m pip install --no-index --find-links payload/tools \\"
        yield "    --require-hashes -r payload/tools/requirements.txt"
