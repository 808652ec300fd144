"""Reports: pages of one file each, which need no network and run no script, and whose every name is escaped."""
