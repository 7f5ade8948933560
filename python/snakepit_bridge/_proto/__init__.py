"""The messages of `proto/snakepit.proto`.

Generated with grpcio-tools 1.62: its code runs on every protobuf from 4.25 on, that of later ones
refuses runtimes older than itself. `python -m grpc_tools.protoc -I proto
--python_out=python/snakepit_bridge/_proto --pyi_out=python/snakepit_bridge/_proto snakepit.proto`,
then `sed -i "s/'snakepit_pb2'/__name__/" python/snakepit_bridge/_proto/snakepit_pb2.py`: the classes
are in this package, where `pickle` finds them.
"""
