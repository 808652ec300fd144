"""The stages: each verb of the command is a function here, in the module of the same name."""
