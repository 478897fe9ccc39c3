"""Commands, each a file to run: python scripts/<name>.py."""
