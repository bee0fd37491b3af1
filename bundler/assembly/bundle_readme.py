"""`README.md` of a bundle: what it is and how to check it, with the real names filled in.

Its commands write nothing into the bundle, which may be on a read-only medium. They need `python3`,
`openssl` and `sha256sum`. Each `python3` has `-I`: without it, a module on the medium would run in place of
Python's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bundler import __version__
from bundler.content.system_libraries import needs_lines
from bundler.core.printable import printable
from bundler.core.specs.lock import Lock
from bundler.core.units import format_bytes
from bundler.records.license_table import HEADINGS, WARNING, LicenseRow, LicenseText
from bundler.trust.statements import RELEASE_TYPE

_TEXT = """# {name} {serial} ({channel})

A sealed bundle: model weights, engine wheels, container images and their records, listed with their SHA-256
in `manifest.json` and signed in `attestations/`. Built with sealift {version} from the lock
`sha256:{lock}`.

## What is inside

{contents}

{libraries}## Before you start

Run all commands in this folder, in one shell. They write nothing here, so the medium can be read-only.
Set these names first if your files are elsewhere. None of these files may come from this medium:

```sh
POLICY=${{POLICY:-/etc/sealift/trust/policy.json}}   # the trust policy of your organisation
STATE=${{STATE:-/var/lib/sealift/state.json}}        # what sealift verified here before
RELEASE_KEY=${{RELEASE_KEY:-$HOME/release.pub}}      # the public release key of the sender
TARGET=${{TARGET:-$HOME/sealift}}                    # where engines are installed
```

## Who must sign

Your trust policy decides who must sign, never this file. With sealift, this command shows the roles, the
people in them and the statements they must sign:

```sh
sealift trust show "$POLICY"
```

| role | file | statement |
| --- | --- | --- |
| release | `attestations/release.sigstore.json` | channel, serial and SHA-256 of the manifest |
| release | `attestations/oms.sigstore.json` | SHA-256 of each file (OpenSSF Model Signing) |
| release | `attestations/provenance.sigstore.json` | how the bundle was built (SLSA) |
| each other role of the policy, such as legal | another file in `attestations/` | what that person says |

A second signer's file has a longer name, such as `release-NAME.sigstore.json`. This command shows which
statements came along. It does not check them:

```sh
python3 -I -c '
import base64, json, pathlib
for path in sorted(pathlib.Path("attestations").glob("*.json")):
    payload = json.loads(path.read_bytes())["dsseEnvelope"]["payload"]
    print(path.name, ascii(json.loads(base64.b64decode(payload))["predicateType"]))'
```

The sender's `sealift keys generate -o release.key` wrote the public key `release.pub`. Compare its
fingerprint with the one you received another way (paper, telephone):

```sh
openssl pkey -pubin -in "$RELEASE_KEY" -outform DER | sha256sum
```

## Check it, then use it

The first time on a machine, add `--trust-on-first-use sha256:DIGEST` to the first command, with the policy's
digest from paper.

```sh
{verbs}
```

{profiles}
No sealift there yet? `payload/tools` holds its wheels, pip and uv. They are only as trustworthy as this
bundle: check it first, as described below.

```sh
{tools}
```

## Check it without sealift

These checks need `python3`, `openssl` and `sha256sum`.

**1.** Compare the SHA-256 of the manifest with the one the sender told you another way:

```sh
sha256sum manifest.json
```

**2.** Check the release signature with `release.pub`. At least one file must print `Verified OK` and then
`same manifest`. These lines are for P-256 keys. Write `-sha384` for a P-384 key; use `verify.pyz` for others:

```sh
work=$(mktemp -d "$HOME/sealift-check.XXXXXX")
for file in attestations/release*.sigstore.json; do
python3 -I -c '
import base64, hashlib, json, pathlib, sys
envelope = json.loads(pathlib.Path(sys.argv[1]).read_bytes())["dsseEnvelope"]
payload = base64.b64decode(envelope["payload"])
work, statement = pathlib.Path(sys.argv[2]), json.loads(payload)
(work / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
(work / "signed").write_bytes(b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload)
manifest = hashlib.sha256(pathlib.Path("manifest.json").read_bytes()).hexdigest()
same = statement["subject"][0]["digest"]["sha256"] == manifest
release = statement["predicateType"] == "{release_type}"
print("same manifest" if same and release else "DIFFERENT manifest", file=(work / "result").open("w"))
' "$file" "$work" &&
openssl dgst -sha256 -verify "$RELEASE_KEY" -signature "$work/signature" "$work/signed" &&
cat "$work/result"
done
rm -r "$work"
```

**3.** Check the list of files against the manifest, and every file against the list. It must print
`all files fit`:

```sh
python3 -I -c '
import hashlib, json, pathlib, sys
files = json.loads(pathlib.Path("manifest.json").read_bytes())["files"]
listed = [item["sha256"] for item in files if item["path"] == "SHA256SUMS"]
found = hashlib.sha256(pathlib.Path("SHA256SUMS").read_bytes()).hexdigest()
sys.exit(None if listed == [found] else "SHA256SUMS differs from the manifest")' &&
sha256sum --quiet -c SHA256SUMS && echo all files fit
```

`sha256sum` does not notice files that the list does not name. sealift and `verify.pyz` do.

`verify.pyz` is the verifier as one file for `python3` 3.9 or later with nothing installed. Do not trust it
because it came along. Compare its SHA-256 with the one you received another way, not with one printed here:

```sh
sha256sum verify.pyz
python3 -I verify.pyz . --policy "$POLICY"
```

## Licences

Note: {warning}. `sealift inspect . --licenses` shows the same table.

{licences}
"""


@dataclass(frozen=True)
class Licences:
    """What the README shows of licences."""

    rows: Sequence[LicenseRow]
    texts: Sequence[LicenseText]


def render(lock: Lock, licences: Licences) -> bytes:
    """The README's bytes; the same lock and licences give the same bytes."""
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
        verbs="\n".join(_verbs(lock)),
        profiles=_profiles_text(profiles),
        tools="\n".join(_tool_commands(lock)) or "# this bundle carries no engine, and so no tools",
        release_type=RELEASE_TYPE,
        warning=WARNING,
        licences="\n".join(_license_lines(licences)),
    ).encode()


def _verbs(lock: Lock) -> Iterable[str]:
    """Verify, install each engine, and show what each profile would start."""
    trust = '--policy "$POLICY" --state "$STATE"'
    yield f"sealift verify . {trust}"
    for engine in lock.engines:
        yield f'sealift install . {trust} --engine {engine.id} --to "$TARGET/{engine.folder}"'
    folders = {engine.id: engine.folder for engine in lock.engines}
    for item in lock.launch:
        place = f'--env "$TARGET/{folders[item.engine]}"'
        yield f"sealift launch . {trust} --profile {item.profile} {place} --dry-run"


def _profiles_text(profiles: str) -> str:
    start = "`--dry-run` shows the command that would start. Leave it out to start the server."
    return f"{start} Profiles in this bundle:\n\n{profiles}" if profiles else ""


def _license_lines(licences: Licences) -> Iterable[str]:
    for cells in (HEADINGS, ("---",) * len(HEADINGS), *(row.cells() for row in licences.rows)):
        yield f"| {' | '.join(map(_cell, cells))} |"
    if licences.texts:
        yield "\nLicence texts that were added:\n"
        yield from (f"- {_cell(str(text))}" for text in licences.texts)


def _cell(text: str) -> str:
    """Text of a stranger as one cell: nothing hidden, no new column, no link, no markup."""
    return re.sub(r"([\\|<`\[])", r"\\\1", printable(text))


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
        yield f'python3 -I -m venv "$TARGET/tool"     # CPython {pythons}'
        yield '"$TARGET/tool/bin/python" -I -m pip install --no-index --find-links payload/tools \\'
        yield "    --require-hashes -r payload/tools/requirements.txt"
