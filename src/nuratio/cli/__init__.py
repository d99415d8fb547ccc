"""The command line: thin commands, each a few public calls; JSON on stdout, progress and errors on stderr."""
