"""What an adapter is: its commands, and the context and the session of a call."""
