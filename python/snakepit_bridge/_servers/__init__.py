"""The servers that take calls and answer them: native, grpcio, and stdin and stdout."""
