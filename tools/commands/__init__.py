"""What each command does with what was typed, and what it prints."""
