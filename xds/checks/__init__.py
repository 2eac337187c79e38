"""What `proa check` says of a cluster: checks over gathered facts, each with the command that mends what it found."""
