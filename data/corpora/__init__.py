"""The corpora of the demo and the study, built from packages that are pinned by version and checksum."""
