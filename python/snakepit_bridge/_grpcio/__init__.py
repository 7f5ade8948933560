"""The server of a worker on grpcio, which needs that package and protobuf."""
