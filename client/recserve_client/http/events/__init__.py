"""Server-sent events: what changes of a server, told to those who listen."""
