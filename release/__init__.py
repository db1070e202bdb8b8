"""The release folder: written, read and checked, talked to. Its model card and privacy statement."""
