"""The verbs: each function here is one command of featstore, in the module of the same name."""
