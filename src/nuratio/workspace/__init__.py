"""The workspace: a pyhf workspace plus one key `unbinned`, with its event tables, as a directory."""
