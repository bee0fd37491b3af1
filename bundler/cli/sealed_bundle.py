"""What a person must see of a sealed bundle before signing anything about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bundler.cli.output import Output, printable
from bundler.core.units import format_bytes

if TYPE_CHECKING:
    from bundler.signing.release import SealedBundle


def show_bundle(output: Output, bundle: SealedBundle) -> None:
    """Channel, serial, size and digest in plain text."""
    manifest = bundle.manifest
    output.say(f"channel   {printable(manifest.channel)}")
    output.say(f"serial    {manifest.serial}")
    output.say(f"files     {len(manifest.files)}, {format_bytes(manifest.total_bytes)}")
    output.say(f"manifest  sha256:{bundle.manifest.sha256}")


def bundle_facts(bundle: SealedBundle) -> dict[str, Any]:
    """The same for `--json`."""
    return {
        "manifest": {"sha256": bundle.manifest.sha256, "serial": bundle.manifest.serial},
        "channel": bundle.manifest.channel,
    }
