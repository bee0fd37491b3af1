"""sealift: build, sign, carry, verify and launch air-gapped bundles of very large language models."""

__version__ = "0.1.0"
