"""The `cotune` command: thin verbs. Heavy imports stand inside the verbs, so that help is quick."""
