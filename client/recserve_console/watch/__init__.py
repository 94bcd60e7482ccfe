"""What a server did lately: metrics and timed inferences, kept for a day."""
