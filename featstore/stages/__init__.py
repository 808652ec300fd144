"""The stages: each subcommand (verb) of featstore is a function here, in the module of the same name."""
