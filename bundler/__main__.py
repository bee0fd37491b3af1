"""`python -m bundler` is `sealift`."""

from bundler.cli.app import main

main()
