"""What a server needs to be reached: addresses, certificates, tokens, notices to systemd."""
