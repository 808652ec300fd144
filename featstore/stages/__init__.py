"""The stages: each subcommand of featstore is a function here, in the module of the same name."""
