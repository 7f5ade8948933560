"""The servers that receive calls and answer them: native, grpcio, and stdin and stdout."""
