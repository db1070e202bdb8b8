"""What somebody who was not there can check offline: transcripts, forks, uploads, evidence. Needs no secret key."""
