"""The flag tables under the name that the field cases import; the data is in `bundler.engines`."""

from bundler.engines.flag_tables import TABLES

__all__ = ["TABLES"]
