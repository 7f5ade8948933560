"""What users write and call: adapters, commands and hooks, contexts and sessions."""
