"""What a user can ask for: flags, what each command does, and the exit status."""
