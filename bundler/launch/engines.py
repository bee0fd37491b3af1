"""The engine's flags under the name that the field cases import; the code is in `bundler.engines.flags`."""

from bundler.engines.flags import argument_findings

__all__ = ["argument_findings"]
