"""The command line: one module for each group of commands, each importing what it needs only when it runs."""
